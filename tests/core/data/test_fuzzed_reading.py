"""Generated bad files and recipes: nothing goes wrong, and what is made to go wrong is noticed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignkit.data import lines, sources
from alignkit.data.rows import BadRow
from alignkit.errors import UserError
from alignkit.protocols import SourceRow
from alignkit_plugins.step_data import writing
from helpers.fuzzing import FOLDER, fuzz_module

FILES, MUTATED, RECIPES = 60, 40, 60


@pytest.fixture(scope="module")
def worker() -> Any:
    return fuzz_module("fuzz_worker").Worker()


@pytest.fixture
def do(worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[str]]:
    """Runs one job in a folder of its own; afterwards the test is where it was."""
    monkeypatch.chdir(tmp_path)

    def done(kind: str, seed: int) -> list[str]:
        folder = tmp_path / f"{kind}-{seed}"
        folder.mkdir()
        problems: list[str] = worker.do(kind, seed, folder)
        return problems

    return done


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("file", FILES), ("mutated", MUTATED), ("recipe", RECIPES)])
def test_nothing_goes_wrong(do: Callable[[str, int], list[str]], kind: str, count: int) -> None:
    # every tenth recipe goes through the command line, which is for the run of the whole thing
    seeds = [seed for seed in range(2 * count) if kind != "recipe" or seed % 10][:count]
    found = {seed: do(kind, seed) for seed in seeds}
    assert len(found) == count
    assert {seed: problems for seed, problems in found.items() if problems} == {}


def test_a_few_of_each_kind(do: Callable[[str, int], list[str]]) -> None:
    for kind, seeds in (("file", range(1000, 1008)), ("mutated", range(1000, 1005)), ("recipe", range(1001, 1009))):
        for seed in seeds:
            assert (kind, seed, do(kind, seed)) == (kind, seed, [])


def problems_of(do: Callable[[str, int], list[str]], stop: str) -> set[str]:
    """Classes of what is found in the first files, until one of `stop` is."""
    classes: set[str] = set()
    for seed in range(FILES):
        classes |= {problem.partition(":")[0] for problem in do("file", seed)}
        if stop in classes:
            break
    return classes


def test_a_reader_that_loses_rows_is_noticed(
    do: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(path: Path) -> Iterator[SourceRow | BadRow]:
        for n, row in enumerate(lines.json_line_rows(path)):
            if n != 3:
                yield row

    monkeypatch.setitem(sources._READERS, ".jsonl", losing)
    assert "silent" in problems_of(do, "silent")


def test_a_reader_that_hides_bad_rows_is_noticed(
    do: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hiding(path: Path) -> Iterator[SourceRow | BadRow]:
        return (row for row in lines.json_line_rows(path) if isinstance(row, SourceRow))

    monkeypatch.setitem(sources._READERS, ".jsonl", hiding)
    assert "silent" in problems_of(do, "silent")


def test_a_wrong_line_is_noticed(do: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    original = lines._decoded
    monkeypatch.setattr(lines, "_decoded", lambda path, number, raw: original(path, number + 1, raw))
    assert "place" in problems_of(do, "place")


def test_rejected_rows_that_are_not_written_are_noticed(
    do: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing.PartFiles, "reject", lambda self, bad: None)
    assert "silent" in problems_of(do, "silent")


def test_a_refused_good_file_is_noticed(do: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(path: Path) -> Iterator[SourceRow | BadRow]:
        raise UserError("no", where=path)

    monkeypatch.setitem(sources._READERS, ".jsonl", never)
    assert "refused" in problems_of(do, "refused")


def test_other_exceptions_pass(do: Callable[[str, int], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's loop turns them into tracebacks."""

    def broken(path: Path) -> Iterator[SourceRow | BadRow]:
        raise KeyError("oops")

    monkeypatch.setitem(sources._READERS, ".json", broken)
    with pytest.raises(KeyError):
        problems_of(do, "none")


@pytest.mark.slow
def test_the_benchmark_writes_its_figures(tmp_path: Path) -> None:
    out, keep = tmp_path / "fuzz.json", tmp_path / "keep"
    script = str(FOLDER / "fuzz.py")
    command = [sys.executable, script, "--minutes", "0.05", "--files", "15", "--json", str(out), "--keep", str(keep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["files"] == 15
    assert found["recipes"] > 0
    assert found["peak_mib"] > 0
    assert [found[name] for name in ("tracebacks", "hangs", "over_memory", "silent_losses", "misplaced")] == [0] * 5
    assert not keep.exists()


@pytest.mark.slow
def test_time_memory_and_death_of_the_worker_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz = fuzz_module("fuzz")
    (tmp_path / "fuzz_worker.py").write_text(
        "import json, os, sys, time\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    seed = json.loads(line)['seed']\n"
        "    open(json.loads(line)['folder'] + '/input', 'w').close()\n"
        "    if seed == 0: time.sleep(60)\n"
        "    if seed == 1: os._exit(9)\n"
        "    found = {'problems': ['traceback: x'] * (seed == 2), 'seconds': 0.1, 'mib': 900.0 * (seed == 3)}\n"
        "    print(json.dumps(found), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "HERE", tmp_path)
    figures = fuzz.fuzz(0, 5, 0, fuzz.Limits(2, 512), tmp_path / "keep")
    result = figures.result()
    assert (result["hangs"], result["tracebacks"], result["over_memory"], result["files"]) == (1, 2, 1, 5)
    assert result["peak_mib"] == 900
    assert sorted(p.name for p in (tmp_path / "keep").iterdir()) == [f"file-{n}" for n in range(4)]
    assert (tmp_path / "keep/file-0/input").exists()
    assert "more than 2 s" in (tmp_path / "keep/file-0/problems.txt").read_text()
