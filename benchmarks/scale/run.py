"""Two processes on this CPU against one: the same losses, the memory of each, the time.

    python benchmarks/scale/run.py [--json benchmarks/results/scale.json]

Each run is `alignkit run`, started as a launcher does (gloo, FSDP2), one thread per process.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = {"sft": 20, "reward": 20, "dpo": 20, "ppo": 3, "grpo": 3}
RECIPE = """\
name: one
policy: {name: causal_lm, init: {preset: small}, tokenizer: {train_on: "@corpus", vocab_size: 4096}}
trackers: [jsonl]
steps:
  - {id: corpus, step: data, format: {name: film_world, rows: 800, prompts: 100, test_prompts: 8}}
  - {id: base, step: train, data: "@corpus", optimizer_stage: {name: pretrain, batch_size: 8, block_length: 128}}
  - {id: labels, step: collect, policy: "@base", prompts: "@corpus", samples_per_prompt: 3, sampling: {max_length: 24},
     reward_source: simulated}
  - {id: sft, step: train, policy: "@base", data: "@corpus",
     optimizer_stage: {name: sft, batch_size: 40, log_every: 1, micro_batch_tokens: 1024}}
  - {id: reward, step: train, policy: "@base", data: "@labels",
     optimizer_stage: {name: reward_model, batch_size: 5, epochs: 2, log_every: 1, micro_batch_tokens: 1024}}
  - {id: dpo, step: train, policy: "@base", data: "@labels",
     optimizer_stage: {name: dpo, batch_size: 5, epochs: 2, log_every: 1, micro_batch_tokens: 1024}}
  - {id: ppo, step: align, policy: "@base", prompts: "@corpus", iterations: 3, batch_size: 16, advantage: gae,
     reward_source: {name: reward_model, model: "@reward"}, sampling: {max_length: 24}, optimizer_stage: {name: ppo}}
  - {id: grpo, step: align, policy: "@base", prompts: "@corpus", iterations: 3, batch_size: 16, samples_per_prompt: 4,
     reward_source: {name: reward_model, model: "@reward"}, advantage: grpo, sampling: {max_length: 24},
     optimizer_stage: {name: ppo}, kl: {placement: loss}}
"""
TAKEN_OVER = 3  # steps that both runs share: models that differ in the last bits would be judged differently
LOSSES = {"ppo": ("policy_loss", "value_loss"), "grpo": ("policy_loss", "kl_loss")}


def alignkit(folder: Path, processes: int, *arguments: str) -> None:
    """A run to its end, each process with the meter."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SCALE_METER": str(folder / f"meter{processes}-{rank}.json")}
        if processes > 1:
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, str(HERE / "metered.py"), "run", *arguments]
        started.append(subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.DEVNULL if rank else None))
    statuses = [process.wait() for process in started]
    if any(statuses):
        sys.exit("a process failed")


def rows(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of metrics by step."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "loss" in row or "policy_loss" in row:  # no measurement
            found.setdefault(row["step"], []).append(row)
    return found


def difference(one: list[dict[str, Any]], two: list[dict[str, Any]], names: tuple[str, ...], steps: int) -> float:
    """The largest difference of these figures over the first steps, relative to the figure's largest size."""
    worst = 0.0
    for name in names:
        size = max(abs(row[name]) for row in one[:steps])
        pairs = list(zip(one[:steps], two[:steps], strict=True))
        assert len(pairs) == steps, (name, len(pairs))
        worst = max(worst, max(abs(a[name] - b[name]) for a, b in pairs) / size)
    return worst


def measured(folder: Path) -> dict[str, Any]:
    """Both runs, compared."""
    (folder / "recipe.yaml").write_text(RECIPE)
    alignkit(folder, 1, "recipe.yaml")
    two = folder / "runs/two"
    shutil.copytree(folder / "runs/one", two)
    for path in sorted(two.glob("r1/*"))[TAKEN_OVER:]:
        shutil.rmtree(path)
    alignkit(folder, 2, "recipe.yaml", "name=two")
    one_rows, two_rows = rows(folder / "runs/one"), rows(two)
    meters = {n: [json.loads((folder / f"meter{n}-{r}.json").read_text()) for r in range(n)] for n in (1, 2)}
    found: dict[str, Any] = {"differences": {}, "memory": {}, "seconds_per_step": {}}
    for step, steps in STEPS.items():
        names = LOSSES.get(step, ("loss",))
        found["differences"][step] = {
            "steps": steps,
            "figures": list(names),
            "relative": difference(one_rows[step], two_rows[step], names, steps),
        }
    whole = meters[1][0]["sft"]["bytes"]
    largest = max(meter["sft"]["bytes"] for meter in meters[2])
    found["memory"] = {
        "what": "weights, gradients and moments of SFT, from the local parts, before the optimizer's second step",
        "one_process_bytes": whole,
        "two_processes_bytes": [meter["sft"]["bytes"] for meter in meters[2]],
        "ratio": largest / whole,
        "peak_rss_bytes": {"one": meters[1][0]["rss"], "two": [meter["rss"] for meter in meters[2]]},
        "rss_before_the_first_step_bytes": {
            "one": meters[1][0]["sft"]["rss_before"],
            "two": [meter["sft"]["rss_before"] for meter in meters[2]],
        },
    }
    for step in ("sft", "reward", "dpo"):
        seconds = {n: statistics.median(meters[n][0][step]["seconds"]) for n in (1, 2)}
        found["seconds_per_step"][step] = {"one": seconds[1], "two": seconds[2], "ratio": seconds[2] / seconds[1]}
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where the runs stay; default: nowhere")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        folder = options.folder or Path(temp)
        folder.mkdir(parents=True, exist_ok=True)
        found = measured(folder)
    import torch
    import transformers

    found["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    found["cores"] = len(os.sched_getaffinity(0))
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
