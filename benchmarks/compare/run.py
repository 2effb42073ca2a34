"""This project beside TRL on the same models, data, batches, steps and threads, in one run.

    python benchmarks/compare/run.py [--quick] [--task sft …] [--model tiny mid] [--repeats N] --json F

Every figure comes from a process of its own; ours and each of the peer's settings take turns. Environments of the peers
are made with pip and kept in --envs. --data FOLDER measures on one's own texts (see inputs.py), --tree FOLDER another
checkout of this project.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cases import BETAS, GENERATE, TASKS, Setting, Task, recipe
from environments import python_of
from inputs import SIZES, Inputs, made_up, make_model, read
from table import Measured, measured, profile, row, rows_of

from alignkit.engine.environment import environment

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignkit/bench"
TEXTS = 2000  # of each kind that are made up
OVERHEAD_TARGET = "< 0.05"
Runs = dict[tuple[str, str], list[Measured]]


class Comparison:
    """All tasks on one model."""

    def __init__(self, model: str, work: Path, arguments: argparse.Namespace) -> None:
        self.model = model
        self.arguments = arguments
        texts = read(arguments.data) if arguments.data else made_up(TEXTS)
        make_model(SIZES[model], texts, work / model)
        self.inputs = Inputs(work / model, texts)
        self.rows: list[dict[str, Any]] = []
        self.profiles: list[dict[str, Any]] = []

    def compare(self, task: Task) -> None:
        """Take turns, then add the task's rows."""
        quick = self.arguments.quick
        task = replace(task, steps=self.arguments.steps or (task.quick_steps if quick else task.steps))
        settings = task.settings[:1] if quick else task.settings
        runs: Runs = defaultdict(list)
        for repeat in range(self.arguments.repeats):
            sides = {("ours", s.ours): s for s in settings} | {("peer", s.name): s for s in settings}
            for side, setting in sides.items() if repeat % 2 == 0 else reversed(sides.items()):
                found = self._ours(task, setting) if side[0] == "ours" else self._peer(task, setting)
                runs[side].append(found)
                rate = f"{found.rate:.4g} {task.metric} ({found.cpu_rate:.4g} a CPU second)"
                print(f"{self.model} {task.name} · {side[0]}, {side[1]}: {rate}", flush=True)
        for setting in settings:
            ours, peer = runs["ours", setting.ours], runs["peer", setting.name]
            self.rows += rows_of(
                task.name, task.metric, ours, peer, setting.name, setting.precision, setting.faster, setting.memory
            )
        for (side, name), of_side in runs.items():
            first, last = of_side[0].figures
            named = {"task": task.name, "side": side, "setting": name, "seconds": profile(of_side)}
            self.profiles.append({**named, "first_step": first, "last_step": last})
            if side == "ours" and task.peer != GENERATE:
                share = [m.overhead for m in of_side]
                self.rows.append(row(task.name, f"engine overhead, {name}", share, [], "", OVERHEAD_TARGET))

    def _amounts(self, task: Task) -> list[int]:
        if task.part == "sampling":
            return [task.batch_size * task.options["length"]] * task.steps
        if task.part == "prompts":
            return [task.batch_size] * task.steps
        return self.inputs.rows(task.name, task.part, task.steps * task.batch_size, task.batch_size)[1]

    def _ours(self, task: Task, setting: Setting) -> Measured:
        more = {"threads": self.arguments.threads, "tree": self.arguments.tree}
        if task.peer == GENERATE:
            return self._measured(task, sample(task, self.inputs, "ours", setting.precision, **more))
        return self._measured(task, measure_ours(task, self.inputs, setting.precision, setting.stage, **more))

    def _peer(self, task: Task, setting: Setting) -> Measured:
        threads = self.arguments.threads
        if task.peer == GENERATE:
            return self._measured(task, sample(task, self.inputs, "peer", setting.precision, threads=threads))
        job: dict[str, Any] = {
            "model": str(self.inputs.folder / "model"), "scorer": str(self.inputs.folder / "scorer"),
            "steps": task.steps, "batch_size": task.batch_size, "lr": task.lr, "betas": BETAS,
            "options": setting.options, "environment": setting.environment, "dtype": setting.dtype, **task.options,
        }  # fmt: skip
        if task.part == "prompts":
            job["prompts"] = texts_of(task, self.inputs)
        else:
            count = task.steps * task.batch_size
            job["rows"] = str(self.inputs.rows(task.name, task.part, count, task.batch_size)[0])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "job.json"
            file.write_text(json.dumps({**job, "output": folder}), encoding="utf-8")
            python = python_of(task.peer, self.arguments.envs)
            command = [python, HERE / "peers" / task.script, "--job", file]
            return self._measured(task, process(command, folder, threads=threads))

    def _measured(self, task: Task, report: dict[str, Any]) -> Measured:
        amounts = self._amounts(task)
        if report.get("tokens", amounts) != amounts:
            raise RuntimeError(f"{task.name} was fed other batches: {report['tokens'][:5]} …, not {amounts[:5]} …")
        return measured(report, amounts, task.warm_up, task.whole)


def texts_of(task: Task, inputs: Inputs) -> str:
    """The file of the task's texts, each used once."""
    return str(inputs.texts(task.part, task.steps * task.batch_size // task.options.get("group", 1)))


def measure_ours(
    task: Task,
    inputs: Inputs,
    precision: str,
    stage: dict[str, Any] | None = None,
    *,
    threads: int = 1,
    tree: Path | None = None,
) -> dict[str, Any]:
    """Run our recipe of a task; `stage` changes options of its optimizer stage."""
    model, scorer = str(inputs.folder / "model"), str(inputs.folder / "scorer")
    code = [str(HERE / "clock_tracker.py"), "measured_reward:share_of_e"]
    with tempfile.TemporaryDirectory() as folder:
        written = recipe(task, precision, model, scorer, texts_of(task, inputs), folder)
        written["plugins"] = {"files": code[:1]}
        written["steps"][-1]["optimizer_stage"] |= stage or {}
        file = Path(folder) / "recipe.yaml"
        file.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
        command = [sys.executable, HERE / "ours.py", "--recipe", file, "--allow-code", *code]
        return process(command, folder, threads=threads, tree=tree)


def sample(
    task: Task, inputs: Inputs, side: str, precision: str, *, threads: int = 1, tree: Path | None = None
) -> dict[str, Any]:
    """Sample completions on one side."""
    texts, ids = zip(*inputs.exact(task.batch_size, task.options["prompt"]), strict=True)
    job = {"side": side, "precision": precision, "model": str(inputs.folder / "model"), "texts": texts, "ids": ids}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps({**job, "length": task.options["length"], "steps": task.steps}), encoding="utf-8")
        return process([sys.executable, HERE / task.script, "--job", file], folder, threads=threads, tree=tree)


def process(command: list[Any], folder: str, *, threads: int = 1, tree: Path | None = None) -> dict[str, Any]:
    """What a process measured. Raises RuntimeError with the end of what it said if it fails."""
    found = Path(folder) / "measured.json"
    search = [HERE, *(tree / part for part in ("core", "plugins", "kernels") if tree)]
    variables = {
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, search)), "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
    }  # fmt: skip
    ended = subprocess.run([*command, "--json", found], env=variables, capture_output=True, text=True, check=False)
    if ended.returncode or not found.is_file():
        said = (ended.stdout + ended.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{said}")
    report: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return report


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, TRL's default setting only")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--model", nargs="+", choices=SIZES, default=["tiny"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of every process, instead of the task's own number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="folder with texts of one's own")
    parser.add_argument("--tree", type=Path, help="another checkout of this project")
    parser.add_argument("--envs", type=Path, default=CACHE)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    models = {}
    with tempfile.TemporaryDirectory() as work:
        for model in arguments.model:
            comparison = Comparison(model, Path(work), arguments)
            for name in arguments.task:
                comparison.compare(TASKS[name])
                models[model] = {
                    "data": {part: comparison.inputs.lengths(part) for part in ("demonstrations", "preferences")},
                    "rows": comparison.rows,
                    "profiles": comparison.profiles,
                }
                write(arguments, models)
    for model, found in models.items():
        for line in found["rows"]:
            print(model, *(line[k] for k in ("task", "metric", "ours", "peer", "ratio", "target", "met")), sep="\t")


def write(arguments: argparse.Namespace, models: dict[str, Any]) -> None:
    """What there is so far: a long run that is stopped keeps its finished tasks."""
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "peers": sorted({TASKS[name].peer for name in arguments.task} - {GENERATE}),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "texts": "made up" if arguments.data is None else "given",
        "models": models,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
