"""The concurrent parts of the test suite, run again and again: does a test ever fail without a reason?

    python benchmarks/reliability/flakes.py [--runs 100] [--slow-runs N] [--jobs 2] [--only PART] --json F

The tests are those with the marker `concurrent`: they use threads, processes, servers or locks. The fast ones are one
part, each module of slow ones another. A run is one pytest process over all tests of a part, in a random order of its
own (the seed is in the result). Every part has all its runs before the next one begins, the fastest first. With
`--jobs 2` two runs of a part share the processor, which gives each of them the other as noise: bound to one core,
`taskset -c 3`, a test waits at places where it never waits alone. The result is written after each run, with the
output of every test that failed; a run that hangs or dies is a failure too. A part that is run anew replaces its
figures in the file, the others' stay.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from alignkit.engine.environment import environment
from alignkit.files import read_json, write_json

ROOT = Path(__file__).parents[2]
HANGS_SECONDS = 1800
KEPT_CHARACTERS = 20_000

running: "set[subprocess.Popen[str]]" = set()


class Failure(NamedTuple):
    """A test that failed in a run, or the run itself (`test` is empty then)."""

    part: str
    seed: int
    test: str
    output: str


class Ran(NamedTuple):
    """One pytest process."""

    seed: int
    tests: int
    seconds: float
    failures: tuple[Failure, ...]


@dataclass
class Part:
    """Tests that run in one process, and how that went."""

    name: str
    arguments: tuple[str, ...]
    tests: int
    wanted: int
    ran: list[Ran] = field(default_factory=list)

    def run(self, seed: int) -> Ran:
        """All its tests once, in the order of the seed."""
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "results.xml"
            options = (f"--junitxml={results}", f"--shuffle-seed={seed}", f"--basetemp={folder}/tests")
            clock = time.perf_counter()
            status, output = _pytest(*self.arguments, *options)
            seconds = time.perf_counter() - clock
            count, failures = _read(results, self.name, seed) if results.is_file() else (0, [])
        if not failures and (status != 0 or count != self.tests):
            what = f"exit status {status}, {count} of {self.tests} tests\n{output[-KEPT_CHARACTERS:]}"
            failures = [Failure(self.name, seed, "", what)]
        return Ran(seed, count, seconds, tuple(failures))

    def figures(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "tests": self.tests,
            "runs": len(self.ran),
            "failures": sum(len(ran.failures) for ran in self.ran),
            "seconds": round(sum(ran.seconds for ran in self.ran), 1),
            "seconds_of_a_run": round(sum(ran.seconds for ran in self.ran) / max(len(self.ran), 1), 1),
        }


def _pytest(*arguments: str) -> tuple[int, str]:
    """Exit status and output; what it said until then if it hangs."""
    # the code beside these tests, wherever an editable installation leads
    paths = [str(path) for path in (Path(__file__).parent, *(ROOT / name for name in ("core", "plugins", "kernels")))]
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "pytest", "-p", "shuffled", "-p", "no:cacheprovider", "-q", *arguments]
    # a session of its own, so that what it started goes with it
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        running.add(process)
        try:
            output, _ = process.communicate(timeout=HANGS_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nstill running after {HANGS_SECONDS} s"
        running.remove(process)
    return process.returncode, output


def _read(results: Path, part: str, seed: int) -> tuple[int, list[Failure]]:
    """How many tests ran, and those that failed. A skipped one did not run: it could hide a flake."""
    cases = list(ElementTree.parse(results).iter("testcase"))
    failures = []
    for case in cases:
        for kind in ("failure", "error"):
            for found in case.findall(kind):
                said = [found.text or "", *(case.findtext(stream) or "" for stream in ("system-out", "system-err"))]
                name = f"{case.get('classname')}::{case.get('name')}"
                failures.append(Failure(part, seed, name, "\n".join(said)[-KEPT_CHARACTERS:]))
    return sum(case.find("skipped") is None for case in cases), failures


def collect(chosen: str) -> list[str]:
    """Ids of the tests that an expression of markers chooses."""
    status, output = _pytest("--collect-only", "-m", chosen)
    if status != 0:
        raise SystemExit(f"the tests cannot be collected:\n{output}")
    return [line for line in output.splitlines() if "::" in line]


def parts(runs: int, slow_runs: int) -> list[Part]:
    """The fast tests together, the slow ones by module."""
    fast, slow = collect("concurrent and not slow"), collect("concurrent and slow")
    modules = sorted({id.partition("::")[0] for id in slow})
    # with a file named, pytest collects that alone; the fast ones are in few files too
    found = [
        Part("fast", ("-m", "concurrent and not slow", *sorted({i.partition("::")[0] for i in fast})), len(fast), runs)
    ]
    for module in modules:
        count = sum(id.partition("::")[0] == module for id in slow)
        found.append(Part(module, ("-m", "concurrent and slow", module), count, slow_runs))
    return found


def run_all(part: Part, seeds: Sequence[int], jobs: int) -> Iterator[Ran]:
    """As they come."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for ran in pool.map(part.run, seeds):
                part.ran.append(ran)
                yield ran
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def figures(found: Sequence[Part], before: dict[str, Any], jobs: int) -> dict[str, Any]:
    """What is written: these parts, and of the result before the parts that were not run now."""
    names = {part.name for part in found}
    now = [*(p for p in before.get("parts", ()) if p["name"] not in names), *(part.figures() for part in found)]
    failed = [failure for failure in before.get("failed", ()) if failure["part"] not in names]
    failed += [failure._asdict() for part in found for ran in part.ran for failure in ran.failures]
    return {
        "runs": min(part["runs"] for part in now),
        "tests": sum(part["tests"] for part in now),
        "failures": len(failed),
        "seconds": round(sum(part["seconds"] for part in now), 1),
        "parts": sorted(now, key=lambda part: part["seconds_of_a_run"]),
        "failed": failed,
        "jobs": jobs,
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
    }


def main() -> None:
    """Measure each part once, run them, the fastest first, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--slow-runs", type=int, help="runs of each slow module; default: as the others")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--only", action="append", default=[], help="part: fast, or the file of a slow module")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    slow_runs = arguments.runs if arguments.slow_runs is None else arguments.slow_runs
    found = [p for p in parts(arguments.runs, slow_runs) if not arguments.only or p.name in arguments.only]
    if not found:
        raise SystemExit(f"no part is called {' or '.join(arguments.only)}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    before = read_json(arguments.json) if arguments.json.is_file() else {}

    def rounds(part: Part, seeds: range) -> None:
        for ran in run_all(part, seeds, arguments.jobs):
            write_json(arguments.json, figures(found, before, arguments.jobs))
            failed = "".join(f"\n  FAILED {f.test or 'the run'}" for f in ran.failures)
            print(
                f"{part.name} {len(part.ran)}/{part.wanted}: {ran.tests} tests, {ran.seconds:.1f} s{failed}", flush=True
            )

    for part in found:
        rounds(part, range(min(1, part.wanted)))
    for part in sorted(found, key=lambda p: p.ran[0].seconds):
        rounds(part, range(1, part.wanted))
    done = figures(found, before, arguments.jobs)
    print({k: v for k, v in done.items() if k not in ("environment", "failed")})
    if done["failures"]:
        raise SystemExit(f"{done['failures']} failures; their output is in {arguments.json}")


if __name__ == "__main__":
    main()
