"""Reads bad files and recipes until something goes wrong.

python benchmarks/reliability/fuzz.py [--minutes 10] [--files 1000] [--seed 0] --json F

First `--files` files of which every bad row is known are read by the `data` step: by its part of `alignkit check`, with
on_bad_row strict, and with skip. Then, for `--minutes`, files with changed bytes and recipes with changed values, keys
and characters (one in ten through `alignkit check`, the others through what it calls). All is made from the seed.

The work is done in a process of its own with a limit of time and memory for each input. Counted are
  tracebacks     any exception but the project's own errors
  hangs          more than --seconds for one input
  over_memory    more than --mib above what the process had before the input
  silent_losses  a row that is neither used nor reported, or sums that do not add up
  misplaced      a complaint about another line than the bad one, or about a good file
Inputs that failed are kept in --keep.
"""

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.engine.environment import environment

HERE = Path(__file__).parent
CLASSES = {
    "traceback": "tracebacks", "hang": "hangs", "memory": "over_memory", "silent": "silent_losses",
    "place": "misplaced", "refused": "misplaced", "left behind": "misplaced",
}  # fmt: skip
JOBS_OF_A_WORKER = 2000
START_SECONDS = 120


@dataclass(frozen=True)
class Limits:
    """Of one input."""

    seconds: float
    mib: float


@dataclass
class Figures:
    """What was seen."""

    inputs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    peak_mib: float = 0.0
    kept: list[str] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "files": self.inputs["file"],
            "mutated_files": self.inputs["mutated"],
            "recipes": self.inputs["recipe"],
            **{name: self.failures[name] for name in dict.fromkeys(CLASSES.values())},
            "slowest_s": round(self.slowest_s, 2),
            "slowest": self.slowest,
            "peak_mib": round(self.peak_mib, 1),
        }


class Process:
    """The worker, started again when it was killed or has done many jobs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._jobs = 0

    def ask(self, kind: str, seed: int, folder: Path, seconds: float) -> dict[str, Any] | None:
        """The answer, or None if it took too long or the process died."""
        if self._process is None or self._jobs >= JOBS_OF_A_WORKER:
            self.close()
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._jobs += 1
        self._process.stdin.write(json.dumps({"kind": kind, "seed": seed, "folder": str(folder)}) + "\n")
        self._process.stdin.flush()
        line = self._line(seconds)
        if line is None:
            self.close()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "fuzz_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._jobs = 0
        if self._line(START_SECONDS) is None:
            raise SystemExit("the worker does not start: try `python benchmarks/reliability/fuzz_worker.py`")

    def _line(self, seconds: float) -> str | None:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return (self._process.stdout.readline() or None) if ready else None

    def died(self) -> bool:
        """Whether there is none."""
        return self._process is None

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def jobs(seed: int, files: int, seconds: float) -> Iterator[tuple[str, int]]:
    """Kinds and seeds: first the files, then the others until the time is over."""
    for n in range(files):
        yield "file", seed * 1_000_000 + n
    end = time.monotonic() + seconds
    n = 0
    while time.monotonic() < end:
        yield ("mutated", "recipe", "recipe")[n % 3], seed * 1_000_000 + n
        n += 1


def fuzz(seed: int, files: int, seconds: float, limits: Limits, keep: Path) -> Figures:
    """Do all jobs; inputs that failed are left in `keep`."""
    figures = Figures()
    process = Process()
    try:
        for kind, number in jobs(seed, files, seconds):
            with tempfile.TemporaryDirectory() as temp:
                folder = Path(temp) / f"{kind}-{number}"
                folder.mkdir()
                began = time.perf_counter()
                answer = process.ask(kind, number, folder, limits.seconds)
                problems = _problems(answer, limits, time.perf_counter() - began)
                figures.inputs[kind] += 1
                if answer is not None:
                    slowest = max((figures.slowest_s, figures.slowest), (answer["seconds"], folder.name))
                    figures.slowest_s, figures.slowest = slowest
                    figures.peak_mib = max(figures.peak_mib, answer["mib"])
                for problem in problems:
                    figures.failures[CLASSES[problem.partition(":")[0]]] += 1
                if problems:
                    _keep(folder, keep, problems)
                    figures.kept.append(f"{folder.name}: {problems[0]}")
    finally:
        process.close()
    return figures


def _problems(answer: dict[str, Any] | None, limits: Limits, seconds: float) -> list[str]:
    if answer is None:
        took_long = seconds >= limits.seconds
        return [f"hang: more than {limits.seconds:g} s"] if took_long else ["traceback: the process died"]
    found: list[str] = list(answer["problems"])
    if answer["mib"] > limits.mib:
        found.append(f"memory: {answer['mib']:.0f} MiB")
    if answer["seconds"] > limits.seconds:
        found.append(f"hang: {answer['seconds']:.1f} s")
    return found


def _keep(folder: Path, keep: Path, problems: list[str]) -> None:
    target = keep / folder.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    (target / "problems.txt").write_text("\n".join(problems) + "\n", encoding="utf-8")


def main() -> None:
    """Run and write the figures; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30, help="limit for one input")
    parser.add_argument("--mib", type=float, default=512, help="limit for one input, above what the process had before")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for inputs that failed")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    began = time.perf_counter()
    limits = Limits(arguments.seconds, arguments.mib)
    figures = fuzz(arguments.seed, arguments.files, arguments.minutes * 60, limits, arguments.keep)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python benchmarks/reliability/fuzz.py --minutes {arguments.minutes:g} --files {arguments.files} "
        f"--seed {arguments.seed}",
        "environment": environment(),
        "limits": {"seconds": limits.seconds, "mib": limits.mib},
        "seconds": round(time.perf_counter() - began, 1),
        **figures.result(),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures.result(), indent=2))
    for line in figures.kept[:20]:
        print(line)
    if figures.kept:
        print(f"{len(figures.kept)} inputs failed and are kept in {arguments.keep}")
        sys.exit(1)


if __name__ == "__main__":
    main()
