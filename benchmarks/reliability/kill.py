"""Runs that are killed at any moment and go on: do they end like a run that was never stopped, to the byte?

    python benchmarks/reliability/kill.py [--quick] [--only PART] [--signal KILL|TERM|INT] --json F

Thirty runs of a cut-down quickstart (its steps, fewer rows) are stopped once each, at moments spread evenly over the
processor time that such a run takes, and one whole quickstart is killed ten times; the same command then goes on. At
the end every file of the run is compared with that of an uninterrupted one (compare.py). With SIGTERM and SIGINT the
command must also end with 143 or 130.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from compare import content, differences
from process import AFTER, BEFORE, RESUMED, Bench, Ended

from alignkit.engine.environment import environment

CUT_DOWN = (
    "corpus.format.rows=3000",
    "corpus.format.prompts=400",
    "corpus.format.test_prompts=40",
    "policy.init.preset=nano",
    "policy.tokenizer.vocab_size=400",
    "labels.limit=300",
    "reward.optimizer_stage.epochs=3",
    "aligned.iterations=24",
    "aligned.batch_size=32",
    "aligned.eval_every=4",
    "aligned.eval_limit=16",
)
# So often that a kill finds a checkpoint of most steps, and often one that is being written.
OFTEN = ("checkpoints.seconds=0.5",)
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
TRIES = 5
PARTS = ("cut_down", "quickstart")


class Plan(NamedTuple):
    """How much of it."""

    runs: int
    kills_of_whole: int


FULL = Plan(runs=30, kills_of_whole=10)
QUICK = Plan(runs=4, kills_of_whole=0)


@dataclass(frozen=True)
class Kill:
    """One interruption: when, what the process ended with, where it stood, and from what the next one went on."""

    after: float
    status: int
    at: str
    checkpoint: str | None
    resumed: bool


@dataclass(frozen=True)
class Outcome:
    """A run that was killed and ended: what differs from an uninterrupted one."""

    kills: list[Kill]
    differs: list[str]
    seconds: float


def uninterrupted(bench: Bench) -> Ended:
    """A run from its beginning to its end; anything but success ends the measurement."""
    ended = bench.go()
    if ended.status != 0:
        sys.exit(f"a run that nobody stopped ended with {ended.status}:\n{ended.log[-3000:]}")
    return ended


def interrupted(bench: Bench, moments: Sequence[float], number: int, whole: dict[str, str]) -> Outcome:
    """Send the signal after so many seconds of each start, then run to the end and compare."""
    kills: list[Kill] = []
    seconds = 0.0
    for moment in moments:
        stopped = bench.go(moment, number)
        seconds += stopped.seconds
        if stopped.status == 0:  # it was faster than foreseen
            break
        found = bench.found()
        kills = _went_on(kills, stopped)
        kills.append(Kill(round(moment, 2), stopped.status, found.at, found.checkpoint, False))
    last = bench.go()
    kills = _went_on(kills, last)
    problems = [] if last.status == 0 else [f"going on ended with {last.status}: {last.log[-2000:]}"]
    problems += [f"{kill.at}: ended with {kill.status}" for kill in kills if not _expected(kill, number)]
    return Outcome(kills, problems or differences(whole, content(bench.run)), round(seconds + last.seconds, 1))


def _went_on(kills: list[Kill], ended: Ended) -> list[Kill]:
    """The same with the last kill marked if the process after it took up a checkpoint."""
    if not kills or not RESUMED.search(ended.log):
        return kills
    return [*kills[:-1], Kill(**{**asdict(kills[-1]), "resumed": True})]


def _expected(kill: Kill, number: int) -> bool:
    """Before alignkit's first line is read and when all is done, a signal does what it does to any process."""
    outside = kill.at in (BEFORE, AFTER)
    return kill.status == STATUS[signal.Signals(number)] or (outside and kill.status == -number)


def killed_once(work: Path, index: int, fraction: float, seconds: float, number: int, whole: dict[str, str]) -> Outcome:
    """A cut-down run that is stopped at a fraction of its duration; again if it was over before that."""
    for _ in range(TRIES):
        folder = work / f"cut-{index:02d}"
        shutil.rmtree(folder, ignore_errors=True)
        outcome = interrupted(Bench(folder, (*CUT_DOWN, *OFTEN)), [fraction * seconds], number, whole)
        if outcome.kills:
            return outcome
        seconds = min(seconds, outcome.seconds) * 0.98
    raise RuntimeError(f"run {index} was always over before it could be stopped")


def cut_down(work: Path, plan: Plan, number: int, seed: int, jobs: int) -> dict[str, Any]:
    """The runs that are stopped once each."""
    bench = Bench(work / "cut-whole", (*CUT_DOWN, *OFTEN))
    seconds = uninterrupted(bench).seconds
    whole = content(bench.run)
    print(f"a cut-down run takes {seconds:.1f} s and leaves {len(whole)} files", flush=True)
    generator = random.Random(seed)
    # Evenly spread, each at a random place of its own part: thirty moments drawn freely would leave gaps.
    fractions = [(index + generator.random()) / plan.runs for index in range(plan.runs)]
    order = list(enumerate(fractions))
    generator.shuffle(order)

    def one(task: tuple[int, float]) -> tuple[float, Outcome]:
        index, fraction = task
        outcome = killed_once(work, index, fraction, seconds, number, whole)
        _say(f"{fraction:4.0%} of its time", outcome)
        return fraction, outcome

    with ThreadPoolExecutor(jobs) as pool:
        rows = sorted(pool.map(one, order), key=lambda row: row[0])
    return {
        "processor_seconds": round(seconds, 1),
        "overrides": [*CUT_DOWN, *OFTEN],
        "files": len(whole),
        "runs": [{"fraction": round(fraction, 3), **asdict(outcome)} for fraction, outcome in rows],
    }


def whole_quickstart(work: Path, plan: Plan, number: int, seed: int) -> dict[str, Any]:
    """The quickstart as it is shipped, stopped several times."""
    often = ("checkpoints.seconds=5",)
    bench = Bench(work / "whole", often)
    seconds = uninterrupted(bench).seconds
    whole = content(bench.run)
    start = uninterrupted(bench).seconds  # imports, the check of the recipe and the report: each start has them
    print(f"a whole quickstart takes {seconds:.0f} s, {start:.1f} s of them outside its steps", flush=True)
    generator = random.Random(seed)
    moments = sorted(generator.uniform(0, seconds - start) for _ in range(plan.kills_of_whole))
    pieces = [start + to - since for since, to in zip([0.0, *moments], moments, strict=False)]
    outcome = interrupted(Bench(work / "whole-killed", often), pieces, number, whole)
    _say("the whole quickstart", outcome)
    result = {"processor_seconds": round(seconds, 1), "overrides": list(often), "files": len(whole)}
    return {**result, "runs": [asdict(outcome)]}


def _say(what: str, outcome: Outcome) -> None:
    kills = ", ".join(
        f"{kill.at}{' · ' + kill.checkpoint if kill.checkpoint else ''}{' · resumed' if kill.resumed else ''}"
        for kill in outcome.kills
    )
    print(f"{what}: {kills}: {'identical' if not outcome.differs else outcome.differs}", flush=True)


def table(runs: list[dict[str, Any]]) -> str:
    """Kills by the step that they hit."""
    kills = [(kill, not run["differs"]) for run in runs for kill in run["kills"]]
    lines = ["", f"{'stopped in':24}{'kills':>7}{'had a checkpoint':>18}{'resumed':>9}{'identical':>11}"]
    for at in sorted(Counter(kill["at"] for kill, _ in kills)):
        here = [(kill, same) for kill, same in kills if kill["at"] == at]
        had = sum(kill["checkpoint"] is not None for kill, _ in here)
        lines.append(
            f"{at:24}{len(here):7}{had:18}{sum(k['resumed'] for k, _ in here):9}{sum(same for _, same in here):11}"
        )
    return "\n".join(lines)


def result_of(parts: dict[str, Any], number: int, seed: int) -> dict[str, Any]:
    """What is written: the figures of both parts together, and each part."""
    runs = [run for part in parts.values() for run in part["runs"]]
    kills = [kill for run in runs for kill in run["kills"]]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "signal": signal.Signals(number).name,
        "seed": seed,
        "kills": len(kills),
        "identical": sum(len(run["kills"]) for run in runs if not run["differs"]),
        "resumed_from_a_checkpoint": sum(kill["resumed"] for kill in kills),
        **parts,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few kills of the cut-down quickstart")
    parser.add_argument("--only", choices=PARTS, help="one part; the other's figures in the file stay")
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=2, help="cut-down runs at a time, one thread each")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    number = signal.Signals[f"SIG{arguments.signal}"]
    # A shell that starts this in the background has SIGINT ignored, and the runs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work = Path(tempfile.mkdtemp(prefix="alignkit-kill-"))
    parts = {}
    if arguments.only != "quickstart":
        parts["cut_down"] = cut_down(work, plan, number, arguments.seed, arguments.jobs)
    if arguments.only != "cut_down" and plan.kills_of_whole:
        parts["quickstart"] = whole_quickstart(work, plan, number, arguments.seed)
    wanted = {"cut_down": plan.runs, "quickstart": plan.kills_of_whole}
    short = [name for name, part in parts.items() if sum(len(run["kills"]) for run in part["runs"]) != wanted[name]]
    if arguments.only and arguments.json.is_file():
        before = json.loads(arguments.json.read_text(encoding="utf-8"))
        parts = {name: {**before, **parts}[name] for name in PARTS if name in {**before, **parts}}
    result = result_of(parts, number, arguments.seed)
    print(table([run for part in parts.values() for run in part["runs"]]))
    print(f"{result['kills']} kills, {result['identical']} of them in runs that ended identical")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if result["identical"] != result["kills"] or short:
        sys.exit(f"not all as it should be{f', too few kills of {short}' if short else ''}; the runs are in {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
