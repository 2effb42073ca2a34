"""Reads a run folder as it is found: an absent or damaged file becomes a sentence on the page."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

SAMPLES_SHOWN = 20


@dataclass(frozen=True)
class StepEntry:
    """One step folder `rR/NN-ID` and what its manifest says."""

    round: int
    number: int
    id: str
    folder: Path
    status: str = "no manifest"
    started: str = ""
    seconds: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the step ran to its end."""
        return self.status == "finished"


@dataclass
class RunFiles:
    """The contents of a run folder. `missing` says in sentences what was not there or not readable."""

    folder: Path
    recipe: dict[str, Any]
    plugins: dict[str, Any]
    summary: dict[str, Any]
    timing: dict[str, Any]
    steps: list[StepEntry]
    missing: list[str]

    @property
    def planned(self) -> list[tuple[int, str]]:
        """(round, id) of every step the recipe asks for, in order."""
        steps = [s for s in as_list(self.recipe.get("steps")) if isinstance(s, dict)]
        rounds = self.recipe.get("rounds", 1)
        if not isinstance(rounds, int):
            return []
        numbers = range(1, rounds + 1)
        return [(r, str(s.get("id"))) for r in numbers for s in steps if r == 1 or s.get("each_round")]

    def options(self, step_id: str) -> dict[str, Any]:
        """A step's entry in the recipe, empty if it has none."""
        for step in as_list(self.recipe.get("steps")):
            if isinstance(step, dict) and step.get("id") == step_id:
                return step
        return {}


def read_run(folder: Path) -> RunFiles:
    """Everything the page shows except metrics and samples, which are read row by row."""
    missing: list[str] = []
    recipe = _object(folder / "recipe.json", "the recipe", missing)
    plugins = _object(folder / "plugins.json", "plugins and environment", missing)
    summary = _object(folder / "summary.json", "the run's summary", missing)
    timing = _object(folder / "timing.json", "times", missing)
    steps = sorted(_steps(folder, missing), key=lambda s: (s.round, s.number, s.id))
    if not summary and any(s.finished for s in steps):
        summary = _summary_of(steps)
        missing.append("The numbers below come from the manifests of the finished steps.")
    return RunFiles(folder, recipe, plugins, summary, timing, steps, missing)


def _object(path: Path, what: str, missing: list[str]) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{path.name} ({what}) is missing.")
        return {}
    except (ValueError, OSError, RecursionError) as error:
        missing.append(f"{path.name} ({what}) cannot be read: {error}.")
        return {}
    if not isinstance(data, dict):
        missing.append(f"{path.name} ({what}) holds no JSON object.")
        return {}
    return data


def _steps(folder: Path, missing: list[str]) -> Iterator[StepEntry]:
    for path in folder.glob("r*/*-*"):
        place = re.fullmatch(r"r(\d+)/(\d+)-(.+)", path.relative_to(folder).as_posix())
        if not place or not path.is_dir():
            continue
        round, number, id = int(place[1]), int(place[2]), place[3]
        name = path.relative_to(folder).as_posix()
        problems: list[str] = []
        manifest = _object(path / "manifest.json", f"step {name}", problems)
        missing.extend(f"{name}/{p}" for p in problems)
        seconds, summary = manifest.get("seconds"), manifest.get("summary")
        yield StepEntry(
            round,
            number,
            id,
            path,
            status=str(manifest.get("status", "no manifest")),
            started=str(manifest.get("started", "")),
            seconds=seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else None,
            summary=summary if isinstance(summary, dict) else {},
        )


def _summary_of(steps: list[StepEntry]) -> dict[str, Any]:
    """What summary.json would hold, so that a run that failed later still shows what it reached."""
    rounds: list[dict[str, Any]] = []
    for number in range(1, max(s.round for s in steps) + 1):
        merged: dict[str, Any] = {}
        for step in steps:
            if step.round == number and step.finished:
                _merge(merged, step.summary)
        rounds.append(merged)
    latest: dict[str, Any] = {}
    for merged in rounds:
        _merge(latest, merged)
    return {**latest, "rounds": rounds}


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        old = into.get(key)
        into[key] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value


@dataclass(frozen=True)
class Samples:
    """The first rows of the newest `samples.jsonl`, unselected, and how many rows the file has."""

    step: StepEntry
    rows: list[dict[str, Any]]
    total: int


def read_samples(run: RunFiles) -> Samples | None:
    """Samples of the newest step that wrote some, or None."""
    for step in reversed(run.steps):
        path = step.folder / "samples.jsonl"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as lines:
            rows = [r for r in map(json_row, islice(lines, SAMPLES_SHOWN)) if r is not None]
            total = len(rows) + sum(1 for _ in lines)
        if rows:
            return Samples(step, rows, total)
    return None


def json_row(line: str) -> dict[str, Any] | None:
    """The object on one line of a JSONL file; None for a line that was cut off or holds something else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def as_list(value: Any) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []
