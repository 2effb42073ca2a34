"""How our time per step grows with tokens, vocabulary, batch and samples per prompt, one thread, float32.

    python benchmarks/compare/growth.py [--repeats N] --json F [--plot F]

Points of a curve differ in one size. The slope is that of the logarithms by least squares: 1 is proportional.
"""

import argparse
import json
import math
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from cases import TASKS, Task
from inputs import SIZES, Inputs, Size, made_up, make_model
from run import measure_ours

from alignkit.engine.environment import environment

STEPS, WARM_UP = 6, 2
BASE_WORDS, PROMPT_WORDS = 100, 10


@dataclass(frozen=True)
class Point:
    """One size of a curve: the task, the model and the number of words in a completion; without x the row's tokens."""

    x: float | None
    task: Task
    size: Size = SIZES["tiny"]
    words: int = BASE_WORDS


def curves() -> dict[str, list[Point]]:
    """What is varied, from half of the usual size or less to several times as much."""
    sft = replace(TASKS["sft"], steps=STEPS)
    grpo = replace(TASKS["grpo"], steps=3, warm_up=1)
    tiny = SIZES["tiny"]

    def of_group(group: int) -> Task:
        return replace(grpo, batch_size=4 * group, options={**grpo.options, "group": group})

    return {
        "tokens of a row (SFT)": [Point(None, sft, words=n) for n in (16, 43, 97, 204, 418)],
        "vocabulary (SFT)": [
            Point(v, sft, replace(tiny, vocabulary=v)) for v in (8192, 16384, 32768, 65536, 131072)
        ],
        "rows of a batch (SFT)": [Point(b, replace(sft, batch_size=b)) for b in (2, 4, 8, 16, 32)],
        "samples of a prompt (GRPO, 4 prompts)": [Point(k, of_group(k), words=PROMPT_WORDS) for k in (2, 4, 8, 16)],
    }  # fmt: skip


def seconds(point: Point, repeats: int) -> tuple[float, float]:
    """The size, and the CPU seconds of a step: median over the steps behind the warm-up, then over repeats."""
    longer = {} if point.task.part == "prompts" else {"max_length": 2048}
    with tempfile.TemporaryDirectory() as work:
        texts = made_up(400, words=(PROMPT_WORDS, point.words))
        make_model(point.size, texts, Path(work))
        inputs = Inputs(Path(work), texts, max_length=2048)
        found = []
        for _ in range(repeats):
            report = measure_ours(point.task, inputs, "float32", longer)
            found.append(median(s["cpu_seconds"] for s in report["steps"][point.task.warm_up :]))
        x = inputs.lengths("demonstrations")["mean_tokens"] if point.x is None else point.x
        return x, round(median(found), 4)


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares on logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def draw(found: dict[str, Any], path: Path) -> None:
    """One panel a curve."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(3.2 * len(found), 3), sharey=True)
    for axis, (name, curve) in zip(axes, found.items(), strict=True):
        xs, ys = zip(*curve["points"], strict=True)
        axis.loglog(xs, ys, "o-", base=2)
        axis.set_xlabel(name, fontsize=8)
        axis.set_title(f"slope {curve['slope']:.2f}", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("CPU seconds of a step", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    found = {}
    for name, points in curves().items():
        measured = [seconds(p, arguments.repeats) for p in points]
        found[name] = {"points": measured, "slope": round(slope(measured), 3)}
        print(f"{name}: slope {found[name]['slope']}, {measured}", flush=True)
    result = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(), "curves": found}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        draw(found, arguments.plot)


if __name__ == "__main__":
    main()
