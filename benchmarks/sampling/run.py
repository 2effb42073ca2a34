"""Time of sampling: transformers' ways and ours, alternating in one process on one thread.

    taskset -c 3 python benchmarks/sampling/run.py [--repeats 7] [--precisions float32,bfloat16] [--json FILE]

A tiny Llama, 32 prompts of 32 tokens, 128 forced tokens each, temperature 1 from the whole vocabulary. Weights are
disturbed before each repeat, as training does, so that what a sampler keeps of them is made anew.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.batches import Head
from alignkit.engine.environment import environment
from alignkit.engine.precision import mixed_precision
from alignkit.records import Prompt, Sampling
from alignkit_plugins.sampler_hf import attention, packing
from alignkit_plugins.sampler_hf.sampler import HFSampler

ROWS, PROMPT, TOKENS, VOCABULARY = 32, 32, 128, 8192
SIZE = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 688,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
}


class Policy:
    """As much of a policy as sampling needs, whose completions never stop; a prompt's text is its ids."""

    pad_id, stop_ids, max_positions, tokenizer_id = 0, frozenset[int](), 512, "ids"
    device = torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZE)).eval()
        self.module.generation_config.eos_token_id = None

    @property
    def head(self) -> Head:
        return Head(self.module.lm_head.weight)

    def encode_prompt(self, prompt: Any) -> list[int]:
        return [int(i) for i in prompt.split()]

    def decode(self, ids: Any) -> str:
        return ""


def generate(policy: Policy, ids_BT: torch.Tensor, **options: Any) -> Callable[[int], None]:
    def once(seed: int) -> None:
        torch.manual_seed(seed)
        found = policy.module.generate(
            ids_BT, attention_mask=torch.ones_like(ids_BT), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=TOKENS, pad_token_id=0, **options,
        )  # fmt: skip
        assert found.shape == (ROWS, PROMPT + TOKENS)

    return once


def ours(policy: Policy, ids_BT: torch.Tensor, captured: bool = False, without: str = "") -> Callable[[int], None]:
    prompts = [Prompt(prompt=" ".join(map(str, row)), id=str(n)) for n, row in enumerate(ids_BT.tolist())]
    sampler = HFSampler(ROWS, captured=captured)

    def once(seed: int) -> None:
        with left_out(without):
            rollout = sampler.rollout(policy, prompts, Sampling(max_length=TOKENS), seed)  # type: ignore[arg-type]
        assert all(len(row) == TOKENS for row in rollout.completion_ids)

    return once


@contextmanager
def left_out(what: str) -> Iterator[None]:
    worth, runs_on = packing.WORTH, attention.runs_on
    if what == "packing":
        packing.WORTH = 10**9
    elif what == "tables":
        attention.runs_on = lambda device: False
    try:
        yield
    finally:
        packing.WORTH, attention.runs_on = worth, runs_on


def cases(policy: Policy, which: str) -> dict[str, Callable[[int], None]]:
    ids_BT = torch.randint(5, VOCABULARY, (ROWS, PROMPT), generator=torch.Generator().manual_seed(1))
    found = {
        "generate": generate(policy, ids_BT),
        "generate, static cache": generate(policy, ids_BT, cache_implementation="static"),
        "hf": ours(policy, ids_BT),
        "hf, decode: graph (not captured here)": ours(policy, ids_BT, captured=True),
        "hf without packed weights": ours(policy, ids_BT, without="packing"),
        "hf without attention over tables": ours(policy, ids_BT, without="tables"),
    }
    return found if which == "all" else {name: found[name] for name in ("generate", "hf")}


@contextmanager
def precision_of(name: str, precision: str) -> Iterator[None]:
    """As each side's users run it: a step of ours, or transformers under plain autocast."""
    if name.startswith("hf"):
        with mixed_precision(torch.device("cpu"), precision):
            yield
        return
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def measure(precision: str, repeats: int, which: str) -> dict[str, Any]:
    """Seconds on the clock and of the processor: the latter leave out what other programs took of the core."""
    policy = Policy()
    times: dict[str, list[tuple[float, float]]] = {}
    failed: dict[str, str] = {}
    for repeat in range(-1, repeats):
        for name, once in cases(policy, which).items():
            if name in failed:
                continue
            with torch.no_grad():
                policy.module.lm_head.weight.mul_(1.0 + 1e-6)
            start, start_cpu = time.perf_counter(), time.process_time()
            try:
                with precision_of(name, precision):
                    once(repeat + 1)
            except (RuntimeError, ValueError, NotImplementedError, AttributeError, TypeError) as error:
                failed[name] = str(error).splitlines()[0][:200]
                continue
            taken = time.perf_counter() - start, time.process_time() - start_cpu
            if repeat >= 0:  # the first is a warm-up
                times.setdefault(name, []).append(taken)
    base = median(cpu for _, cpu in times["generate"]), median(wall for wall, _ in times["generate"])
    rows = {}
    for name, found in times.items():
        cpu, wall = median(c for _, c in found), median(w for w, _ in found)
        rows[name] = {
            "wall_s": [round(w, 4) for w, _ in found],
            "cpu_s": [round(c, 4) for _, c in found],
            "times_generate_wall": round(base[1] / wall, 2),
            "times_generate_cpu": round(base[0] / cpu, 2),
        }
        print(f"{precision:9} {name:42} {wall:6.3f} s  {base[1] / wall:5.2f} x  cpu {base[0] / cpu:5.2f} x", flush=True)
    for name, why in failed.items():
        print(f"{precision:9} {name:42} failed: {why}", flush=True)
    return {"rows": rows, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--cases", choices=["all", "two"], default="all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {p: measure(p, options.repeats, options.cases) for p in options.precisions.split(",")}
    if options.json:
        setting = {**SIZE, "rows": ROWS, "prompt": PROMPT, "tokens": TOKENS, "threads": 1}
        found = {"environment": environment(), "setting": setting, "results": results}
        options.json.write_text(json.dumps(found, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
