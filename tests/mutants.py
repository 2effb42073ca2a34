"""Breaks the code in known ways, one at a time, and demands that a named test notices.

    make mutants
    python tests/mutants.py --jobs 4 --only gae-next-value

Each entry of mutants.toml replaces a text that occurs exactly once in a file. That happens in a copy of the project,
where only the named test runs. It has to fail in its own body: a mutant that cannot be imported proves nothing. Exits
with 1 if a mutant survives or an entry no longer fits the code.
"""

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
CODE = ("core", "plugins", "kernels")
COPIED = (*CODE, "tests", "recipes", "benchmarks", "pyproject.toml")
GUARD = Path(__file__).with_name("mutants_guard.py")
# Raised by code that is broken rather than wrong.
BROKEN = {"ImportError", "ModuleNotFoundError", "NameError", "UnboundLocalError", "SyntaxError"}
TIMEOUT_S = 600


@dataclass(frozen=True)
class Mutant:
    """One way to break the code. `point` says what would be wrong, `test` is a pytest node id, parameters left out."""

    name: str
    file: str
    old: str
    new: str
    test: str
    point: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a pytest run in a sandbox left behind; `failed` maps node ids to the type of what they raised."""

    status: int | None
    failed: dict[str, str]
    imported: int
    foreign: list[str]
    output: str


@dataclass(frozen=True)
class Verdict:
    """`problem` is None for a mutant that was killed; `how` says by what."""

    mutant: Mutant
    problem: str | None
    how: str
    seconds: float


def load(path: Path) -> list[Mutant]:
    """The entries of a TOML file; raises TypeError for an unknown or missing key."""
    return [Mutant(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]


def misfits(mutants: Sequence[Mutant], root: Path) -> list[str]:
    """What is wrong with entries, as far as it shows without running anything."""
    names = [m.name for m in mutants]
    found = [f"{name}: the name is used twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for mutant in mutants:
        found += [f"{mutant.name}: {problem}" for problem in _misfits(mutant, root)]
    return found


def _misfits(mutant: Mutant, root: Path) -> Iterable[str]:
    path = root / mutant.file
    if mutant.file.partition("/")[0] not in CODE or not path.is_file():
        yield f"{mutant.file} is no file below {', '.join(CODE)}"
        return
    source = path.read_text(encoding="utf-8")
    count = source.count(mutant.old)
    if count != 1:
        yield f"`old` occurs {count} times in {mutant.file}, not once"
    elif mutant.old == mutant.new:
        yield "`new` changes nothing"
    else:
        try:
            ast.parse(source.replace(mutant.old, mutant.new))
        except SyntaxError as error:
            yield f"`new` is no Python: {error}"
    if not _test_exists(mutant.test, root):
        yield f"there is no test {mutant.test}"


def _test_exists(test: str, root: Path) -> bool:
    file, *names = test.split("::")
    if not names or not (root / file).is_file():
        return False
    body: Sequence[ast.stmt] = ast.parse((root / file).read_text(encoding="utf-8")).body
    for name in names:
        node = next((n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name), None)
        if node is None:
            return False
        body = node.body
    return isinstance(node, ast.FunctionDef)


class Sandbox:
    """A copy of the project that pytest runs in. Its packages come before the installed ones on the path."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy2(source, folder / name)
        shutil.copy2(GUARD, folder / GUARD.name)
        self._report = folder / "mutants_report.json"

    def run(self, tests: Sequence[str]) -> Outcome:
        """Run tests by node id."""
        self._report.unlink(missing_ok=True)
        path = [self.folder, *(self.folder / name for name in CODE)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            # Python tells stale bytecode by size and second, which a mutation may share with the file it replaces.
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTEST_ADDOPTS": "",
            "MUTANTS_SANDBOX": str(self.folder),
            "MUTANTS_REPORT": str(self._report),
        }
        # Loaded before the copy is on the path, alignkit's own pytest plugin would bring the installed package along.
        plugins = [GUARD.stem, "no:cacheprovider", "no:xdist", "no:alignkit"]
        options = ["-q", "-x", *(part for name in plugins for part in ("-p", name)), "-m", "not gpu"]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(None, {}, 0, [], f"took more than {TIMEOUT_S} s")
        found = {"failed": {}, "imported": 0, "foreign": []}
        if self._report.is_file():
            found = json.loads(self._report.read_text(encoding="utf-8"))
        return Outcome(done.returncode, **found, output=done.stdout + done.stderr)

    def try_mutant(self, mutant: Mutant) -> Verdict:
        """Break the code, run the test, mend the code."""
        path = self.folder / mutant.file
        source = path.read_text(encoding="utf-8")
        start = time.perf_counter()
        path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            outcome = self.run([mutant.test])
        finally:
            path.write_text(source, encoding="utf-8")
        return judge(mutant, outcome, time.perf_counter() - start)


def judge(mutant: Mutant, outcome: Outcome, seconds: float) -> Verdict:
    """Killed means: pytest says that tests failed, the named one among them, in its own body, with no broken import."""
    raised = [kind for id, kind in outcome.failed.items() if _is(mutant.test, id)]
    problem: str | None = None
    if outcome.foreign:
        problem = f"did not test the copy but {outcome.foreign[0]}"
    elif outcome.status is None:
        problem = outcome.output
    elif outcome.status == 0:
        problem = "survived"
    elif outcome.status != 1 or not raised:
        problem = (
            f"no verdict: pytest ended with {outcome.status} and the test itself did not fail\n{outcome.output[-2000:]}"
        )
    elif set(raised) <= BROKEN:
        problem = f"no verdict: the mutant is broken code ({raised[0]})"
    return Verdict(mutant, problem, ", ".join(sorted(set(raised))), seconds)


def _is(test: str, id: str) -> bool:
    return id == test or id.startswith(f"{test}[")


def check_unmutated(sandboxes: Sequence[Sandbox], mutants: Sequence[Mutant]) -> str | None:
    """Run every named test on the code as it is; returns what went wrong."""
    tests = sorted({m.test for m in mutants})
    files = sorted({t.partition("::")[0] for t in tests})
    shares = [[t for t in tests if t.partition("::")[0] in files[i :: len(sandboxes)]] for i in range(len(sandboxes))]
    work = [(sandbox, share) for sandbox, share in zip(sandboxes, shares, strict=True) if share]
    with ThreadPoolExecutor(len(work)) as pool:
        outcomes = list(pool.map(lambda pair: pair[0].run(pair[1]), work))
    for outcome in outcomes:
        if outcome.status != 0:
            return f"the tests do not pass on the code as it is:\n{outcome.output[-6000:]}"
        if outcome.foreign or not outcome.imported:
            return f"the tests did not import the copy: {outcome.foreign[:3] or 'nothing was imported'}"
    return None


def run(mutants: Sequence[Mutant], root: Path, jobs: int) -> int:
    """Try every mutant and print a table; returns the exit status."""
    problems = misfits(mutants, root)
    if problems:
        print("\n".join(problems))
        return 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        sandboxes = [Sandbox(root, _new_folder(folder, i)) for i in range(min(jobs, len(mutants)))]
        problem = check_unmutated(sandboxes, mutants)
        if problem is not None:
            print(problem)
            return 1
        verdicts = _try_all(mutants, sandboxes)
    survivors = [v for v in verdicts if v.problem is not None]
    print(f"\n{len(verdicts) - len(survivors)} of {len(verdicts)} mutants killed")
    for verdict in survivors:
        mutant = verdict.mutant
        print(
            f"\n{mutant.name} ({mutant.file}; {mutant.point or 'no point given'})\n  {mutant.test}\n  {verdict.problem}"
        )
    return int(bool(survivors))


def _new_folder(parent: str, number: int) -> Path:
    folder = Path(parent).resolve() / str(number)
    folder.mkdir()
    return folder


def _try_all(mutants: Sequence[Mutant], sandboxes: Sequence[Sandbox]) -> list[Verdict]:
    free: Queue[Sandbox] = Queue()
    for sandbox in sandboxes:
        free.put(sandbox)
    width = max(len(m.name) for m in mutants)

    def attempt(mutant: Mutant) -> Verdict:
        sandbox = free.get()
        try:
            verdict = sandbox.try_mutant(mutant)
        finally:
            free.put(sandbox)
        result = "killed" if verdict.problem is None else "SURVIVED" if verdict.problem == "survived" else "NO VERDICT"
        print(f"{mutant.name:{width}}  {result:10}  {verdict.seconds:5.1f} s  {verdict.how}", flush=True)
        return verdict

    with ThreadPoolExecutor(len(sandboxes)) as pool:
        return list(pool.map(attempt, mutants))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="break the code and see that tests notice")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", action="append", metavar="NAME", help="try this mutant; may be repeated")
    options = parser.parse_args(arguments)
    mutants = load(Path(__file__).with_name("mutants.toml"))
    unknown = set(options.only or ()) - {m.name for m in mutants}
    if unknown:
        parser.error(f"no mutant {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in mutants)}")
    chosen = [m for m in mutants if options.only is None or m.name in options.only]
    return run(chosen, ROOT, max(1, options.jobs))


if __name__ == "__main__":
    sys.exit(main())
