"""Checkpoints that are written while the step goes on."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.checkpoints import Checkpoints, RowFile, checkpoints, files
from alignkit.checkpoints.states import copied
from alignkit.checkpoints.writer import BackgroundWriter
from alignkit.errors import Fault, Terminated
from alignkit.interruption import Interruption
from alignkit.recipe.model import CheckpointOptions


def options(**changes: Any) -> CheckpointOptions:
    return CheckpointOptions(**{"seconds": None, "steps": 1, "background": True, **changes})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


class Gate:
    """Holds up every write until it is opened, and counts them."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.threads: list[str] = []

    def __call__(self, *arguments: Any) -> None:
        self.threads.append(threading.current_thread().name)
        self.reached.set()
        assert self.open.wait(30)
        files.write_state(*arguments)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(checkpoints, "write_state", gate)
    yield gate
    gate.open.set()


def test_the_step_goes_on_and_what_is_written_is_the_state_at_the_safe_point(gate: Gate, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", options(steps=2))
    rows: RowFile = kept.rows("rows.jsonl")
    weights = torch.zeros(3)
    with kept.loop() as loop:
        rows.append([{"n": 1}])
        length = rows.length
        loop.safe_point(2, lambda: {"weights": weights, "part": weights[1:]})
        assert gate.reached.wait(30)
        weights += 1
        rows.append([{"n": 2}])
        torch.rand(1)
        loop.safe_point(3, lambda: pytest.fail("not due"))
        assert names(kept.folder) == [".1-00000002.tmp"]
        gate.open.set()
    assert names(kept.folder) == ["1-00000002"]
    state, about = files.read_state(kept.folder / "1-00000002")
    assert state["loop.weights"].tolist() == [0, 0, 0]
    assert state["loop.part"].tolist() == [0, 0]
    assert about["rows"] == {"rows.jsonl": length}
    assert gate.threads == ["alignkit-checkpoint"]
    assert "alignkit-checkpoint" not in {thread.name for thread in threading.enumerate()}


def test_by_steps_the_next_one_waits_and_by_time_it_is_put_off(gate: Gate, tmp_path: Path) -> None:
    now = [0.0]
    with Checkpoints(tmp_path / "time", options(steps=None, seconds=9), clock=lambda: now[0]).loop() as loop:
        now[0] += 10
        loop.safe_point(1, lambda: {"n": 1})
        assert gate.reached.wait(30)
        for n in (2, 3):
            now[0] += 10
            loop.safe_point(n, lambda: pytest.fail("one is being written"))
        gate.open.set()
        loop.finish()
        now[0] += 1000
        loop.safe_point(4, lambda: {"n": 4})
    assert names(tmp_path / "time") == ["1-00000001", "1-00000004"]
    gate.open.clear()
    gate.reached.clear()
    with Checkpoints(tmp_path / "steps", options()).loop() as loop:
        loop.safe_point(1, lambda: {"n": 1})
        assert gate.reached.wait(30)
        threading.Timer(0.1, gate.open.set).start()
        loop.safe_point(2, lambda: {"n": len(names(tmp_path / "steps"))})
    assert names(tmp_path / "steps") == ["1-00000001", "1-00000002"]
    assert files.read_state(tmp_path / "steps/1-00000002")[0]["loop.n"] == 1  # the one before was there, whole


def test_a_signal_s_checkpoint_is_there_before_the_run_ends(gate: Gate, tmp_path: Path) -> None:
    interruption = Interruption()
    gate.open.set()
    with interruption.installed(), pytest.raises(Terminated):  # noqa: PT012, SIM117
        with Checkpoints(tmp_path, options(steps=3), interruption).loop() as loop:
            loop.safe_point(3, lambda: {"n": 3})
            signal.raise_signal(signal.SIGTERM)
            loop.safe_point(4, lambda: {"n": 4})
    assert names(tmp_path) == ["1-00000003", "1-00000004"]
    assert gate.threads == ["alignkit-checkpoint", "MainThread"]


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def gone(*_: Any) -> None:
    raise ValueError("a bug")


@pytest.mark.parametrize(
    ("fails", "kind", "said"), [(full, Fault, "checkpoint at 1 cannot be written: No space"), (gone, ValueError, "bug")]
)
@pytest.mark.parametrize("at", ["the next safe point", "the end"])
def test_what_went_wrong_is_raised_when_the_step_comes_by(
    fails: Callable[..., None], kind: type[Exception], said: str, at: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(files, "save_file", fails)
    reached = []
    with pytest.raises(kind, match=said), Checkpoints(tmp_path, options()).loop() as loop:  # noqa: PT012
        loop.safe_point(1, lambda: {"n": 1})
        reached.append(1)
        if at != "the end":
            loop.safe_point(2, lambda: pytest.fail("the one before failed"))
            reached.append(2)
    assert reached == [1]
    assert names(tmp_path) == []


def test_an_error_of_the_step_is_not_hidden_by_one_of_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "save_file", full)
    with caplog.at_level(logging.WARNING, "alignkit"), pytest.raises(KeyError):  # noqa: PT012, SIM117
        with Checkpoints(tmp_path, options()).loop() as loop:
            loop.safe_point(1, lambda: {"n": 1})
            raise KeyError("the step's own")
    assert "No space left" in caplog.text


def test_what_was_being_written_when_an_error_ended_the_step_is_whole(gate: Gate, tmp_path: Path) -> None:
    with pytest.raises(KeyError), Checkpoints(tmp_path, options()).loop() as loop:  # noqa: PT012
        loop.safe_point(1, lambda: {"n": 1})
        threading.Timer(0.1, gate.open.set).start()
        raise KeyError("the step's own")
    assert files.read_state(tmp_path / "1-00000001")[0]["loop.n"] == 1


def test_it_is_off_by_default_where_the_state_is_on_the_cpu(gate: Gate, tmp_path: Path) -> None:
    gate.open.set()
    with Checkpoints(tmp_path, options(background=None)).loop() as loop:
        loop.safe_point(1, lambda: {"weights": torch.zeros(2)})
    assert gate.threads == ["MainThread"]


def test_one_piece_of_work_at_a_time_and_its_error_once() -> None:
    writer, seen = BackgroundWriter(), []
    for n in range(20):
        writer.start(lambda n=n: seen.append(n))  # type: ignore[misc]
    writer.wait()
    assert seen == list(range(20))
    writer.start(lambda: full())
    with pytest.raises(OSError, match="No space"):
        writer.wait()
    writer.wait()
    assert not writer.busy


def test_copies_share_nothing_with_what_they_are_of() -> None:
    base = torch.arange(6.0)
    state = copied({"all": base, "part": base[2:4], "n": 3, "weight": torch.nn.Parameter(base.clone())})
    base += 1
    assert state["all"].tolist() == [0, 1, 2, 3, 4, 5]
    assert state["part"].tolist() == [2, 3]
    assert state["n"] == 3
    assert not state["weight"].requires_grad
