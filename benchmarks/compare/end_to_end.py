"""PPO from sampling to the update on a model of real size with random weights: where an iteration's time goes.

    python benchmarks/compare/end_to_end.py [--size 0.5b] [--kernels triton eager] [--machine h200] --json F

Made for a GPU; `--size tiny` runs anywhere. The operations of an iteration are those that `alignkit plan` counts, and
the share of the card's peak follows from the machine named. Policy, reference, critic and reward model are of one size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from cases import TASKS, Task, recipe
from inputs import SIZES, Inputs, Size, made_up, make_model
from run import HERE, process, texts_of

from alignkit.engine.environment import environment

LARGE = {"0.5b": Size(16, 1536, 12, 4096, 65536), "1.5b": Size(24, 2048, 16, 5632, 65536)}
TEXTS = 4000  # of each kind; prompts are those of at most 64 tokens
WARM_UP = 1


def iteration(report: dict[str, Any], batch_size: int, length: int) -> dict[str, Any]:
    """Medians over the iterations behind the first: seconds, their parts, and tokens by the second."""
    late = report["steps"][WARM_UP:]
    seconds = median(s["seconds"] for s in late)
    parts = {name for s in late for name in s["parts"]}
    return {
        "seconds": round(seconds, 4),
        "parts": {name: round(median(s["parts"].get(name, 0.0) for s in late), 4) for name in sorted(parts)},
        "completion_tokens_per_second": round(batch_size * length / seconds, 1),
        "gpu_peak_mb": report.get("gpu_peak_mb"),
    }


def operations(file: Path, code: list[str], machine: str | None) -> dict[str, float]:
    """Of an iteration, and the seconds that they would take at the machine's peak, from `alignkit plan`.

    Raises RuntimeError with what that said if it fails.
    """
    command = [sys.executable, "-m", "alignkit.cli", "plan", file, "--step", "train", "--json", "--prompt-tokens", "64"]
    command += [part for name in code for part in ("--allow-code", name)]
    command += ["--machine", machine, "--utilisation", "1.0"] if machine else []
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=HERE)
    if ended.returncode:
        raise RuntimeError(f"alignkit plan ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    work = json.loads(ended.stdout)["steps"][0]["work"]
    found = {"flops": sum(part["flops"] for part in work)}
    if machine:
        found["seconds_at_peak"] = sum(part["seconds_by"]["compute"] for part in work)
    return found


def measure(
    task: Task, inputs: Inputs, kernels: str, precision: str, device: str, machine: str | None
) -> dict[str, Any]:
    """One run of the recipe in a process of its own."""
    folder = inputs.folder
    code = [str(HERE / "clock_tracker.py"), "measured_reward:share_of_e"]
    with tempfile.TemporaryDirectory() as output:
        written = recipe(task, precision, str(folder / "model"), str(folder / "scorer"), texts_of(task, inputs), output)
        written |= {"device": device, "kernels": kernels, "plugins": {"files": code[:1]}}
        file = Path(output) / "recipe.yaml"
        file.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
        counted = operations(file, code, machine)
        report = process([sys.executable, HERE / "ours.py", "--recipe", file, "--allow-code", *code], output)
    found = {"kernels": kernels, "precision": precision, **iteration(report, task.batch_size, task.options["length"])}
    found |= counted
    if machine:
        found["share_of_peak"] = round(counted["seconds_at_peak"] / found["seconds"], 4)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*LARGE, *SIZES], default="0.5b")
    parser.add_argument("--kernels", nargs="+", default=["triton", "eager"])
    parser.add_argument("--precision", nargs="+", default=["bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--machine", help="as `alignkit plan --machine`; without it no share of the peak")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--length", type=int, default=256, help="tokens of a completion")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    options = {**TASKS["ppo"].options, "length": arguments.length}
    task = replace(TASKS["ppo"], batch_size=arguments.prompts, steps=arguments.iterations, options=options)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(), "environment": environment(), "size": arguments.size,
        "prompts": arguments.prompts, "length": arguments.length, "rows": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        texts = made_up(TEXTS)
        make_model({**LARGE, **SIZES}[arguments.size], texts, Path(work))
        inputs = Inputs(Path(work), texts)
        for precision in arguments.precision:
            for kernels in arguments.kernels:
                row = measure(task, inputs, kernels, precision, arguments.device, arguments.machine)
                result["rows"].append(row)
                print(json.dumps(row), flush=True)
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
