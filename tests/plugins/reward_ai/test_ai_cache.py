"""The cache of answers: killed, full, or used by several at once, it neither loses nor doubles what was paid for."""

import math
import multiprocessing
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from alignkit.annotation import StoreFault
from alignkit.errors import Fault
from alignkit_plugins.reward_ai.answers import Answer, Spent
from alignkit_plugins.reward_ai.cache import Cache
from helpers.full_disks import Refusal, refusing
from helpers.judging import StubServer, build_ai, completion, make_task

COST = Spent(requests=1, tokens_in=10, tokens_out=3)
FORK = multiprocessing.get_context("fork")


def answer(number: int, who: str = "") -> Answer:
    """Another one for each number; nearly a page long."""
    return Answer("ok", (number / 1e6, 1 - number / 1e6), 0.1 + number, f"{number} {who}" + "x" * 3000)


def keep_and_tell(path: Path, pipe: int) -> None:
    """Keep answers, one by one with its cost, and tell which are kept."""
    cache = Cache(path)
    for number in range(10**6):
        cache.keep("judge", [(f"k{number}", answer(number))], COST)
        os.write(pipe, f"{number}\n".encode())


@pytest.mark.concurrent
def test_a_killed_process_has_kept_what_keep_returned_for(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    known = 0
    for _ in range(3):
        reader, writer = os.pipe()
        process = FORK.Process(target=keep_and_tell, args=(path, writer))
        process.start()
        os.close(writer)
        with os.fdopen(reader) as lines:
            for _ in range(known + 20):  # the first ones are there from the time before
                told = int(lines.readline())
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            told = max([told, *(int(line) for line in lines if line.endswith("\n"))])
        with closing(Cache(path)) as cache:
            found = cache.find(f"k{n}" for n in range(told + 100))
            known = len(found)
        assert found == {f"k{n}": answer(n) for n in range(known)}
        assert known in (told + 1, told + 2)  # the last one perhaps without its being told


def test_an_answer_and_its_cost_are_kept_together_wherever_the_log_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cache = Cache(path)
    for number in range(10):
        cache.keep("judge", [(f"k{number}", answer(number))], COST)
    log = Path(f"{path}-wal")
    whole = log.read_bytes()
    seen = set()
    for length in (*range(0, len(whole), len(whole) // 40), len(whole)):
        folder = tmp_path / str(length)
        folder.mkdir()
        shutil.copy(path, folder)
        (folder / log.name).write_bytes(whole[:length])
        with closing(Cache(folder / path.name)) as cut:
            found = cut.find(f"k{n}" for n in range(10))
            assert found == {f"k{n}": answer(n) for n in range(len(found))}
            assert cut.spent("judge") == Spent(*(n * len(found) for n in COST))
            seen.add(len(found))
    cache.close()
    assert seen >= {0, 10}
    assert len(seen) > 5


def keep_all(path: Path, who: str, barrier: Any, results: Any) -> None:
    """Keep the same questions' answers as others at the same time; say what went wrong."""
    try:
        barrier.wait()
        cache = Cache(path)
        for number in range(20):
            cache.keep("judge", [(f"k{number}", answer(number, who))], COST)
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")
    else:
        results.put("")


@pytest.mark.concurrent
def test_processes_that_share_a_new_cache_keep_one_answer_each_and_all_costs(tmp_path: Path) -> None:
    for turn in range(3):
        path = tmp_path / f"{turn}.sqlite"
        barrier, results = FORK.Barrier(4), FORK.Queue()
        processes = [FORK.Process(target=keep_all, args=(path, f"{n}", barrier, results)) for n in range(4)]
        for process in processes:
            process.start()
        assert [results.get() for _ in processes] == [""] * 4
        for process in processes:
            process.join()
        with closing(Cache(path)) as cache:
            found = cache.find(f"k{n}" for n in range(20))
            assert cache.spent("judge") == Spent(*(80 * n for n in COST))
        assert len(found) == 20
        for number in range(20):
            assert found[f"k{number}"] in {answer(number, str(n)) for n in range(4)}


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_what_could_not_be_written_is_told_and_no_cost_is_forgotten(tmp_path: Path, how: Refusal) -> None:
    tasks = [make_task(f"question {n}", "good " * 40, "bad " * 40) for n in range(30)]
    top = [("A", math.log(0.7)), ("B", math.log(0.3))]
    with StubServer(lambda prompt, number: completion("x" * 1000, top=top)) as server:
        options = {"judge": "openai", "model": "m", "base_url": server.url, "concurrency": 2}
        source = build_ai(tmp_path, **options)
        cache = source.asker.cache
        with refusing(cache._engine, how), pytest.raises(StoreFault) as raised:
            list(source.annotate(tasks))
        assert isinstance(raised.value, Fault)
        assert str(cache.path) in str(raised.value)
        assert len(server.prompts) < 60  # it does not go on buying what it cannot keep
        # In the same process, as in the loop's next iteration: what waited is written, with its cost.
        assert len(list(source.annotate(tasks))) == 30
        assert sorted(server.prompts) == sorted(set(server.prompts))
        assert len(server.prompts) == 60
        paid = cache.spent(source.asker.judge.revision)
        assert paid == Spent(len(server.bodies), 100 * len(server.bodies), 10 * len(server.bodies))
        # The next process finds every answer, once.
        before = len(server.bodies)
        again = build_ai(tmp_path, **options)
        assert [j.payload for j in again.annotate(tasks)] == [j.payload for j in source.annotate(tasks)]
        assert len(server.bodies) == before


def test_a_damaged_cache_is_said(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with closing(Cache(path)) as cache:
        for number in range(50):
            cache.keep("judge", [(f"k{number}", answer(number))], COST)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(bytes(content))
    with pytest.raises(StoreFault, match="damaged"), closing(Cache(path)) as cache:
        cache.find(["k1"])
