"""Simulated annotators on a labelling server that is killed again and again: is an acknowledged answer ever lost?

    python benchmarks/label_load/run.py [--quick] --json F

Starts `alignkit label` on the loopback interface with pairwise tasks of overlap 2. Each annotator reads a task, waits
0.5 to 1.5 s, answers, and sends the same answer again until the server acknowledges it, as the page's script does. The
server is killed with SIGKILL while answers are on their way, and started again. At the end every acknowledged answer
in the annotators' own log is looked up in the store: it must be there once, saying what was chosen.

Latency is that of a submit with the next task in its answer, from requests begun after the server was up and ended
before the next kill.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from page import Page, read_page

from alignkit.annotation import AnnotationStore
from alignkit.engine.environment import environment
from alignkit.records import Candidate, Instructions, Judgement, Pairwise, Sampling, Task

COLLECTION = "load"
OVERLAP = 2
THINKING = (0.5, 1.5)
CHOICES = ("A", "B", "tie")


class Plan(NamedTuple):
    """How much of it."""

    annotators: int
    tasks: int
    kills: int
    between_kills: float


FULL = Plan(annotators=50, tasks=2400, kills=20, between_kills=4.0)
QUICK = Plan(annotators=20, tasks=200, kills=4, between_kills=3.0)


class Acknowledged(NamedTuple):
    """An answer that the server said it has. `better` is the text of the better answer, empty for a tie."""

    judgement: str
    task: str
    annotator: str
    better: str


@dataclass
class Log:
    """What the annotators saw."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    refused: int = 0
    resent: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    # (begun, ended) of every submit that was answered
    submits: list[tuple[float, float]] = field(default_factory=list)
    on_their_way: int = 0


def make_store(path: Path, tasks: int) -> None:
    """A store with pairwise tasks and guidelines."""

    def candidate(task: int, n: int) -> Candidate:
        return Candidate(
            id=f"{task}-{n}", prompt_id=str(task), prompt=f"Question {task}",
            completion=f"Answer {n} to question {task}.", policy_revision="none", sampling=Sampling(), seed=0,
            prompt_ids=(), completion_ids=(), finish_reason="stop",
        )  # fmt: skip

    with closing(AnnotationStore(path)) as store:
        published = [
            Task(id=f"t{i}", prompt=f"Question {i}", candidates=(candidate(i, 0), candidate(i, 1)), overlap=OVERLAP)
            for i in range(tasks)
        ]
        store.publish(COLLECTION, "pairwise", published)
        store.instruct(COLLECTION, Instructions(guidelines="Choose the *better* answer."))


class Server:
    """`alignkit label` in a process of its own."""

    def __init__(self, store: Path, people: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "alignkit.cli", "label", str(store), "--port", str(port)]
        self._command += ["--annotators", ",".join(people)]
        self._process: asyncio.subprocess.Process | None = None
        self.links: dict[str, str] = {}
        # (up, killed) times
        self.lives: list[tuple[float, float]] = []
        self._up = 0.0

    async def start(self) -> None:
        """Returns when it answers."""
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            found = re.search(r"(\S+)\s+(http://\S+/invite/\S+)", line.decode())
            if found:
                self.links[found[1]] = found[2]
            if b"Ctrl+C" in line:
                break
        else:
            raise SystemExit("the server did not start")
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"{self.base}/health")).is_success:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.02)
        self._up = time.perf_counter()

    async def kill(self) -> None:
        """Without a chance to finish anything."""
        assert self._process is not None
        self.lives.append((self._up, time.perf_counter()))
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()


async def annotate(name: str, server: Server, log: Log, seed: int) -> None:
    """One annotator, until nothing is left for him."""
    chance = random.Random(seed)
    async with httpx.AsyncClient(base_url=server.base, follow_redirects=True, timeout=15) as client:
        page = read_page((await _again(lambda: client.get(server.links[name]), log)).text)
        if page.kind == "guidelines":
            page = await _acknowledge(client, log)
        while page.kind == "task":
            await asyncio.sleep(chance.uniform(*THINKING))
            page = await _answer(client, page, name, log, chance)


async def _acknowledge(client: httpx.AsyncClient, log: Log) -> Page:
    text = (await _again(lambda: client.get("/guidelines"), log)).text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text))
    response = await _again(lambda: client.post("/guidelines", data=fields), log)
    return read_page(response.text)


async def _answer(client: httpx.AsyncClient, page: Page, name: str, log: Log, chance: random.Random) -> Page:
    choice = chance.choice(CHOICES)
    fields = {**page.fields, "choice": choice, "action": "submit"}
    log.on_their_way += 1
    response = await _again(lambda: client.post("/task", data=fields, headers={"HX-Request": "true"}), log, submit=True)
    log.on_their_way -= 1
    if response.status_code == 200:
        better = page.texts.get(choice, "")
        log.acknowledged.append(Acknowledged(fields["judgement_id"], fields["task_id"], name, better))
        return read_page(response.text)
    log.problems[str(response.status_code)] += response.status_code != 409
    log.refused += response.status_code == 409
    return read_page((await _again(lambda: client.get("/task"), log)).text)


async def _again(send: Any, log: Log, submit: bool = False) -> httpx.Response:
    """Send until there is an answer."""
    while True:
        begun = time.perf_counter()
        try:
            response: httpx.Response = await send()
        except httpx.TransportError:
            log.resent += submit
            await asyncio.sleep(0.2)
            continue
        if submit:
            log.submits.append((begun, time.perf_counter()))
        return response


async def play(plan: Plan, store: Path) -> tuple[Log, Server, float]:
    """Annotators and killer together; returns what was seen, the server's lives, and the seconds it took."""
    people = [f"person-{n}" for n in range(plan.annotators)]
    server, log = Server(store, people), Log()
    await server.start()
    begun = time.perf_counter()
    working = [asyncio.create_task(annotate(name, server, log, n)) for n, name in enumerate(people)]
    for number in range(1, plan.kills + 1):
        await asyncio.sleep(plan.between_kills)
        deadline = time.perf_counter() + 5
        while not log.on_their_way and time.perf_counter() < deadline:
            await asyncio.sleep(0.001)
        await server.kill()
        await server.start()
        print(f"kill {number} of {plan.kills}, {len(log.acknowledged)} acknowledged", flush=True)
        if all(task.done() for task in working):
            raise SystemExit(f"the tasks were used up after {number} kills: make more")
    await asyncio.gather(*working)
    seconds = time.perf_counter() - begun
    await server.kill()
    return log, server, seconds


def check(log: Log, path: Path) -> dict[str, int]:
    """By the annotators' log against the store."""
    with closing(AnnotationStore(path, create=False)) as store:
        kept: dict[str, Judgement] = {judgement.id: judgement for judgement in store.judgements(COLLECTION)}
        tasks = {task.id: task for task in store.tasks(COLLECTION)}
    lost = sum(not _says(kept.get(one.judgement), one, tasks[one.task]) for one in log.acknowledged)
    answers = Counter(judgement.task_id for judgement in kept.values())
    over = sum(max(0, answers[id] - task.overlap) for id, task in tasks.items())
    names = {one.judgement for one in log.acknowledged}
    return {
        "acknowledged": len(log.acknowledged),
        "lost": lost,
        "over_overlap": over,
        "stored_but_never_acknowledged": len(kept.keys() - names),
        "unanswered": sum(task.overlap - answers[id] for id, task in tasks.items()),
    }


def _says(judgement: Judgement | None, one: Acknowledged, task: Task) -> bool:
    """Whether the store has the answer as it was given."""
    if judgement is None or not isinstance(judgement.payload, Pairwise) or judgement.task_id != one.task:
        return False
    texts = {candidate.id: candidate.completion for candidate in task.candidates}
    payload = judgement.payload
    better = {1.0: texts[payload.a], 0.0: texts[payload.b], 0.5: ""}[payload.p_a]
    return better == one.better


def latencies(log: Log, server: Server) -> list[float]:
    """Milliseconds of the submits that no kill touched."""
    return [
        1000 * (ended - begun)
        for begun, ended in log.submits
        if any(up <= begun and ended <= killed for up, killed in server.lives)
    ]


def main() -> None:
    """Play, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.sqlite"
        make_store(path, plan.tasks)
        log, server, seconds = asyncio.run(play(plan, path))
        found: dict[str, Any] = check(log, path)
    times = latencies(log, server)
    found |= {
        "kills": plan.kills,
        "p95_ms": round(float(np.percentile(times, 95)), 1),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "per_second": round(found["acknowledged"] / seconds, 1),
        "refused": log.refused,
        "resent": log.resent,
        "problems": dict(log.problems),
        "annotators": plan.annotators,
        "thinking_seconds": THINKING,
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print({k: v for k, v in found.items() if k != "environment"})
    if found["lost"] or found["over_overlap"] or found["problems"]:
        raise SystemExit("an acknowledged answer was lost, a task has too many, or a request failed")


if __name__ == "__main__":
    main()
