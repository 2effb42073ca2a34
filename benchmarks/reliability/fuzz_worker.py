"""Reads generated files and recipes in this process and says what went wrong; see fuzz.py, which starts it.

Each line of standard input is a job {"kind", "seed", "folder"}; each line of standard output is its result.
"""

import json
import logging
import os
import re
import resource
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_recipes

from alignkit.cli import main as command_line
from alignkit.context import StepContext
from alignkit.errors import AlignkitError, UserError
from alignkit.manager import PluginManager
from alignkit.recipe import load_recipe
from alignkit.recipe.check import recipe_problems, resolve
from alignkit.recipe.model import ComponentSpec
from alignkit.testing.context import make_context

MARK = re.compile(rb"m[0-9]{7}x")
MEMORY_LIMIT = 4 * 1024**3
COMMAND_EVERY = 10
EXPECTED_STATUS = (0, 2, 3, 4)


class Worker:
    """Does jobs. The plugins are loaded once."""

    def __init__(self) -> None:
        self.manager = PluginManager()
        self.manager.load()
        self.context = make_context(manager=self.manager)

    def do(self, kind: str, seed: int, folder: Path) -> list[str]:
        """Problems, each `CLASS: what`. Leaves the input in `folder`."""
        return {"file": self._file, "mutated": self._mutated, "recipe": self._recipe}[kind](seed, folder)

    def _file(self, seed: int, folder: Path) -> list[str]:
        return self._read(fuzz_files.generate(seed), folder)

    def _mutated(self, seed: int, folder: Path) -> list[str]:
        return self._read(fuzz_files.mutate(seed), folder)

    def _read(self, truth: fuzz_files.BadFile, folder: Path) -> list[str]:
        path = folder / truth.name
        path.write_bytes(truth.data)
        options = {**truth.options, "files": str(path)}
        return [
            *self._strict(truth, path, options, "check", lambda: self._check(options)),
            *self._strict(truth, path, options, "strict", lambda: self._step(options, folder / "strict")),
            *self._skip(truth, path, options, folder / "skip"),
        ]

    def _check(self, options: dict[str, Any]) -> None:
        resolve(self.manager, "step", ComponentSpec(name="data", **options), allowed=frozenset())

    def _step(self, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        folder.mkdir()
        context: StepContext = replace(self.context, folder=folder)
        step = context.build("step", ComponentSpec(name="data", **options))
        return step.run(context).summary["data"][context.step_id]  # type: ignore[no-any-return]

    def _strict(
        self, truth: fuzz_files.BadFile, path: Path, options: dict[str, Any], name: str, work: Callable[[], Any]
    ) -> list[str]:
        """Bad rows stop it, the first one is named, and nothing is left behind."""
        wrong = bool(truth.bad or truth.cut or not truth.good)
        try:
            work()
        except UserError as error:
            if truth.exact and not wrong:
                return [f"refused: {name}: {error}"]
            if truth.exact and truth.bad and error.where != f"{path}:{min(truth.bad)}":
                return [f"place: {name}: {error.where}, not line {min(truth.bad)} ({truth.bad[min(truth.bad)]})"]
            left = list((path.parent / "strict").glob("*")) if name == "strict" else []
            return [f"left behind: {left}"] if left else []
        return [f"silent: {name}: no error, though {truth.bad or 'the file is cut'}"] if truth.exact and wrong else []

    def _skip(self, truth: fuzz_files.BadFile, path: Path, options: dict[str, Any], folder: Path) -> list[str]:
        """Every row is used or reported: in the summary, in the parts, in rejected.jsonl."""
        try:
            summary = self._step({**options, "on_bad_row": "skip", "max_bad_share": 1.0}, folder)
        except UserError as error:
            if "no record" not in error.what or (truth.exact and truth.good):
                return [f"refused: skip: {error}"]
            return []
        rejected = folder / "rejected.jsonl"
        parts = {*folder.glob("*.jsonl")} - {rejected}
        used = Counter(found.decode() for part in parts for found in MARK.findall(part.read_bytes()))
        entries = [json.loads(line) for line in rejected.read_text().splitlines()] if rejected.exists() else []
        return [*self._sums(truth, summary, entries), *self._vanished(truth, path, options, used, entries, summary)]

    def _sums(self, truth: fuzz_files.BadFile, summary: dict[str, Any], entries: list[dict[str, Any]]) -> list[str]:
        problems = []
        told = sum(entry.get("rows", 1) for entry in entries)
        accounted = summary["rows_with_record"] + summary.get("rows_without_own_record", 0) + summary["rejected"]
        if told != summary["rejected"] or accounted != summary["rows"]:
            problems.append(f"silent: {summary['rows']} rows, {accounted} accounted for, {told} in rejected.jsonl")
        whole = not summary.get("left_out_unread_files")
        if truth.rows is not None and (whole or truth.exact) and summary["rows"] != truth.rows:
            problems.append(f"silent: {truth.rows} rows in the file, {summary['rows']} counted")
        if truth.exact and summary["rejected"] != len(truth.bad):
            problems.append(f"silent: {len(truth.bad)} bad rows in the file, {summary['rejected']} counted")
        if truth.exact and truth.cut and whole:
            problems.append("silent: the file cannot be read to its end, and nobody says so")
        return problems

    def _vanished(
        self,
        truth: fuzz_files.BadFile,
        path: Path,
        options: dict[str, Any],
        used: Counter[str],
        entries: list[dict[str, Any]],
        summary: dict[str, Any],
    ) -> list[str]:
        """Marked rows that are neither used nor at a place that was reported."""
        problems = []
        places = {line for entry in entries for line in _lines_of(entry, path)}
        ends = [int(place.rpartition(":")[2]) for place in summary.get("left_out_unread_files", ())]
        lost_from = min(ends, default=10**9)
        for found, line in truth.lines.items():
            if not used[found] and line not in places and line < lost_from:
                problems.append(f"silent: the row of line {line} is neither used nor reported")
        if truth.exact:
            wanted = Counter(dict.fromkeys(truth.good, 1)) if options.get("drop_duplicates") else truth.good
            if used != wanted and not truth.cut:
                problems.append(f"silent: rows used are not the good ones: {dict((used - wanted) + (wanted - used))}")
            if places != set(truth.bad):
                problems.append(f"place: reported lines {sorted(places)[:9]}, bad ones {sorted(truth.bad)[:9]}")
        return problems

    def _recipe(self, seed: int, folder: Path) -> list[str]:
        case = fuzz_recipes.generate(seed)
        path = folder / "recipe.yaml"
        path.write_bytes(case.data)
        (folder / "overrides.json").write_text(json.dumps(case.overrides))
        rows = [{"prompt": f"Say {n}.", "chosen": f"yes {n}", "rejected": "no"} for n in range(20)]
        (folder / fuzz_recipes.DATA).write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.chdir(folder)
        if seed % COMMAND_EVERY == 0:
            try:
                command_line(["check", str(path), "--json", *case.overrides])
            except SystemExit as end:
                if end.code not in EXPECTED_STATUS:
                    return [f"traceback: alignkit check ended with {end.code!r}"]
            return []
        try:
            loaded = load_recipe(str(path), case.overrides, manager=self.manager)
            for _, error in recipe_problems(loaded.recipe, loaded.manager, loaded.lines, frozenset()):
                str(error).encode()
        except AlignkitError as error:
            str(error).encode()
        return []


def _lines_of(entry: dict[str, Any], path: Path) -> range:
    file, _, line = entry["where"].rpartition(":")
    assert file == str(path), entry["where"]
    return range(int(line), int(line) + entry.get("rows", 1))


class _Told(logging.Handler):
    """Warnings are put into words and thrown away: that must not fail either."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage().encode()


def peak_mib(reset: bool = False) -> float:
    """Highest resident memory since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    """Answer jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    logging.getLogger("alignkit").addHandler(_Told())
    logging.getLogger("alignkit").propagate = False
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    worker = Worker()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job["folder"])
        peak_mib(reset=True)
        before, began = peak_mib(), time.perf_counter()
        try:
            problems = worker.do(job["kind"], job["seed"], folder)
        except BaseException:
            problems = [f"traceback: {traceback.format_exc(limit=-6)}"]
        seconds = time.perf_counter() - began
        answers.write(json.dumps({"problems": problems, "seconds": seconds, "mib": peak_mib() - before}) + "\n")
        answers.flush()
        os.chdir("/")
        for made in ("strict", "skip"):
            shutil.rmtree(folder / made, ignore_errors=True)


if __name__ == "__main__":
    main()
