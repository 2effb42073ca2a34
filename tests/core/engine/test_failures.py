"""However a run ends, the next one finishes it; finished steps keep their results to the byte."""

import os
import random
import shutil
import signal
import time
from typing import Any

import pytest

from alignkit import Fault, Paused, hookimpl
from alignkit.files import atomic_write

pytestmark = pytest.mark.concurrent

A, B = "id: a, step: write, rows: 3", 'id: b, step: write, source: "@a"'


def manifest(bench: Any, step: str) -> bytes:
    """The bytes of a step's manifest."""
    return bytes((bench.run_folder / step / "manifest.json").read_bytes())


@pytest.mark.parametrize("kind", ["bug", "user", "fault", "memory", "disk", "interrupt"])
def test_a_step_that_raises_is_done_anew_by_the_next_run(kind: str, bench: Any) -> None:
    heard: list[str] = []

    class Listener:
        @hookimpl
        def alignkit_failure(self, step_id: str, error: BaseException) -> None:
            heard.append(f"{step_id}: {type(error).__name__}")

    bench.extra = {"listener": Listener()}
    bench.recipe(A, B + f", fail: {kind}")
    with pytest.raises(BaseException) as caught:  # noqa: PT011  (each kind has its own type)
        bench.run()
    assert heard == [f"b: {type(caught.value).__name__}"]
    assert bench.json("r1/02-b/manifest.json")["status"] == "started"
    kept = manifest(bench, "r1/01-a")
    bench.plugin.failing = False
    bench.runs()
    bench.run()
    assert bench.runs() == ["b/1"]
    assert bench.plugin.found_half["b/1"] is False  # begun in an empty folder
    assert manifest(bench, "r1/01-a") == kept
    assert bench.text("r1/02-b") == "hello1>hello1"


def test_paused_keeps_the_partial_folder_and_says_how_to_go_on(bench: Any) -> None:
    bench.recipe(A, "id: b, step: keeping, fail: paused")
    for again in (False, True):
        with pytest.raises(Paused) as caught:
            bench.run(command="alignkit run small.yaml x=1")
        assert caught.value.exit_status == 3
        assert str(caught.value.hint).endswith("-> then go on with: alignkit run small.yaml x=1")
        assert "put files there" in str(caught.value.hint)
        assert (bench.run_folder / "r1/02-b/half.txt").is_file()
        assert bench.plugin.found_half["b/1"] is again
    bench.plugin.failing = False
    bench.run()
    assert bench.plugin.found_half["b/1"] is True
    assert bench.runs() == ["a/1", "b/1", "b/1", "b/1"]


def test_trackers_are_closed_however_a_step_ends(bench: Any) -> None:
    bench.recipe(A + ", fail_at_row: 2")
    with pytest.raises(Fault, match=r"test-dist 1.0 \(steps\) failed in Write.run: ZeroDivisionError: in the middle"):
        bench.run()
    assert len((bench.run_folder / "r1/01-a/metrics.jsonl").read_text().splitlines()) == 2


def fork_run(bench: Any) -> int:
    """Start the run in a child process."""
    child = os.fork()
    if child == 0:
        try:
            bench.run()
        finally:
            os._exit(0)
    return child


def test_sigkill_at_any_moment_leaves_a_run_that_can_be_finished(bench: Any) -> None:
    steps = [A, B, 'id: c, step: keeping, source: "@b", each_round: true', 'id: d, step: write, source: "@c", rows: 40']
    bench.recipe(*steps, top="rounds: 3")
    bench.run("name=whole")  # also warms up imports, so that the kills hit the run itself
    started = time.perf_counter()
    bench.run("name=timed")
    whole = time.perf_counter() - started
    generator = random.Random(0)
    finished: dict[str, bytes] = {}
    killed = 0
    for _ in range(120):
        if killed == 12:
            break
        child = fork_run(bench)
        time.sleep(generator.uniform(0.0, whole))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            killed += 1
        else:  # it got to its end, on a machine that may be less busy now: begin another one, and come sooner
            whole *= 0.9
            shutil.rmtree(bench.run_folder)
            finished.clear()
        for path in bench.run_folder.glob("r*/*/manifest.json"):
            content = path.read_bytes()  # complete or absent, and a finished one never changes
            if b'"finished"' in content:
                assert finished.setdefault(str(path), content) == content
    assert killed == 12
    bench.run()
    for path, content in finished.items():
        with open(path, "rb") as file:  # noqa: PTH123
            assert file.read() == content
    texts = {}
    for name in ("whole", "small"):
        folder = bench.folder / "runs" / name
        texts[name] = {str(p.relative_to(folder)): p.read_text() for p in folder.glob("r*/*/text.txt")}
    assert len(texts["whole"]) == 6
    assert texts["small"] == texts["whole"]
    whole_metrics = (bench.folder / "runs/whole/metrics.jsonl").read_text()
    assert (bench.run_folder / "metrics.jsonl").read_text() == whole_metrics


def test_killed_while_writing_leaves_no_litter_after_the_next_run(bench: Any) -> None:
    bench.recipe(A)
    child = os.fork()
    if child == 0:
        bench.run_folder.mkdir(parents=True)
        with atomic_write(bench.run_folder / "recipe.json") as file:
            file.write("{")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (bench.run_folder / "recipe.json").exists()
    bench.run()
    names = {p.name for p in bench.run_folder.iterdir()}
    assert names == {
        ".lock", "metrics.jsonl", "plugins.json", "r1", "recipe.json", "report.html", "summary.json", "timing.json",
    }  # fmt: skip
