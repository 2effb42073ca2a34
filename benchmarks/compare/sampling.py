"""Completions of fixed length, by our default sampler or by transformers' `generate`, one process each.

    python sampling.py --job FILE --json F        (the job's `side` is ours or peer)

Prompts of equal length, no token that stops, temperature 1 from the whole vocabulary; ours gives log-probs as well, as
training needs them. Before each repeat the weights change in place, as they do between the batches of a training, so
that what a sampler keeps of them has to be made again.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from meter import METER
from transformers import AutoModelForCausalLM


def ours(job: argparse.Namespace) -> Any:
    """A function that samples once."""
    from alignkit.engine.precision import mixed_precision
    from alignkit.recipe import ComponentSpec
    from alignkit.records import Prompt, Sampling
    from alignkit.standalone import standalone_context

    METER.loaded()
    context = standalone_context(ComponentSpec(name="causal_lm", path=job.model), 0)
    policy: Any = context.policy(None)
    policy.stop_ids = frozenset()
    spec = context.manager.get("step", "align").component.config.model_fields["sampler"].default
    sampler = context.build("sampler", spec)
    prompts = [Prompt(id=str(n), prompt=text) for n, text in enumerate(job.texts)]
    sampling = Sampling(max_length=job.length)

    def once(seed: int) -> int:
        with mixed_precision(policy.device, job.precision):
            rollout = sampler.rollout(policy, prompts, sampling, seed)
        return sum(map(len, rollout.completion_ids))

    return once, policy.module


def peer(job: argparse.Namespace) -> Any:
    """The same with `generate`."""
    METER.loaded()
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="float32").eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor(job.ids)
    lowered = torch.autocast("cpu", torch.bfloat16) if job.precision == "bfloat16" else nullcontext()

    def once(seed: int) -> int:
        torch.manual_seed(seed)
        with lowered:
            found = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                max_new_tokens=job.length,
            )  # fmt: skip
        return (found.shape[1] - ids.shape[1]) * len(ids)

    return once, model


def main() -> None:
    """Sample, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    job = argparse.Namespace(**json.loads(given.job.read_text(encoding="utf-8")))
    once, model = (ours if job.side == "ours" else peer)(job)
    tokens = []
    for seed in range(job.steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0)
        METER.begin()
        tokens.append(once(seed))
        METER.step({})
    METER.write(given.json, tokens=tokens)


if __name__ == "__main__":
    main()
