"""When checkpoints are written, which are kept, and which one is gone on from."""

import logging
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.checkpoints import CheckpointLoop, Checkpoints, module_state, restore_module
from alignkit.checkpoints.files import DamagedError, read_state, write_state
from alignkit.checkpoints.randomness import random_state, restore_random
from alignkit.errors import Fault, Terminated, UserError
from alignkit.interruption import Interruption
from alignkit.recipe.model import CheckpointOptions

STATE: dict[str, Any] = {
    "weights": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
    "mask": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "coefficient": 0.1 + 0.2,
    "nothing": None,
    "infinite": float("inf"),
    "count": 2**40,
    "text": "ä\u2028\n",
    "yes": True,
}


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Rows:
    """A tracker that can be taken up again."""

    def __init__(self) -> None:
        self.rows = 0

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        pass

    def log(self, step_id: str, index: int, metrics: Any) -> None:
        self.rows += 1

    def close(self) -> None:
        pass

    def state(self) -> dict[str, int]:
        return {"rows": self.rows}

    def restore(self, state: Any) -> None:
        self.rows = state["rows"]


def options(**changes: Any) -> CheckpointOptions:
    return CheckpointOptions(**{"seconds": None, "steps": 1, **changes})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def counted(checkpoints: Checkpoints, last: int, first: int = 1, before: Callable[[int], None] = lambda n: None) -> Any:
    """A loop that counts, and what it went on from."""
    with checkpoints.loop() as loop:
        state = loop.restored()
        for n in range(first if state is None else state["n"] + 1, last + 1):
            before(n)
            loop.safe_point(n, lambda n=n: {"n": n})  # type: ignore[misc]
    return state


def test_what_is_written_comes_back_as_it_was(tmp_path: Path) -> None:
    write_state(tmp_path, STATE, {"index": 3})
    state, about = read_state(tmp_path)
    assert about == {"index": 3}
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        if isinstance(value, torch.Tensor):
            assert state[name].dtype == value.dtype
            assert torch.equal(state[name], value)
        else:
            assert state[name] == value
            assert type(state[name]) is type(value)


def test_tensors_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(8.0)
    write_state(tmp_path, {"all": base, "again": base, "part": base[2:4]}, {})
    state, _ = read_state(tmp_path)
    assert torch.equal(state["again"], base)
    assert torch.equal(state["part"], base[2:4])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_any_damage_is_noticed(name: str, damage: Callable[[Path], Any], tmp_path: Path) -> None:
    if damage is cut and name == "checksums.json":
        pytest.skip("its last byte is a line end, which means nothing")
    write_state(tmp_path, STATE, {})
    damage(tmp_path / name)
    with pytest.raises(DamagedError):
        read_state(tmp_path)


def test_a_damaged_one_is_said_and_the_one_before_it_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counted(Checkpoints(tmp_path, options(keep=3)), 5)
    assert names(tmp_path) == ["1-00000003", "1-00000004", "1-00000005"]
    flip(tmp_path / "1-00000005" / "state.safetensors")
    (tmp_path / "1-00000004" / "state.json").unlink()
    with caplog.at_level(logging.WARNING, "alignkit"):
        assert counted(Checkpoints(tmp_path, options(keep=3)), 3) == {"n": 3}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "1-00000005" in said[0]
    assert "checksum" in said[0]
    assert "1-00000004, is used" in said[0]
    assert "state.json is missing" in said[1]
    assert "1-00000003, is used" in said[1]
    assert names(tmp_path) == ["1-00000003"]


def test_when_all_are_damaged_the_step_starts_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counted(Checkpoints(tmp_path, options()), 2)
    for path in tmp_path.iterdir():
        cut(path / "state.json")
    with caplog.at_level(logging.WARNING, "alignkit"):
        assert counted(Checkpoints(tmp_path, options()), 1) is None
    assert "the step starts over" in caplog.records[-1].getMessage()


def test_due_by_steps_by_time_and_never_for_more_than_a_twentieth_of_the_time(tmp_path: Path) -> None:
    clock = Clock()
    checkpoints = Checkpoints(tmp_path, options(steps=None, seconds=10), clock=clock)
    written: list[int] = []

    def slow_state(n: int) -> dict[str, int]:
        clock.now += 2.0  # what it takes to write one
        written.append(n)
        return {"n": n}

    with checkpoints.loop() as loop:
        for n in range(1, 200):
            clock.now += 1.0
            loop.safe_point(n, lambda n=n: slow_state(n))  # type: ignore[misc]
    assert written == [10, 50, 90, 130, 170]
    checkpoints = Checkpoints(tmp_path / "steps", options(steps=7))
    counted(checkpoints, 20)
    assert names(tmp_path / "steps") == ["1-00000007", "1-00000014"]


def test_generators_and_trackers_are_put_back(tmp_path: Path) -> None:
    def draw() -> tuple[Any, ...]:
        return random.random(), random.gauss(0, 1), float(np.random.normal()), float(torch.randn(()))

    tracker = Rows()
    with Checkpoints(tmp_path, options(), trackers=[tracker]).loop() as loop:
        draw()
        tracker.rows = 7
        loop.safe_point(1, lambda: {})
    wanted = draw(), draw()
    again = Rows()
    with Checkpoints(tmp_path, options(), trackers=[again]).loop() as loop:
        draw()
        assert loop.restored() == {}
        assert (draw(), draw()) == wanted
    assert again.rows == 7


def test_seconds_of_earlier_tries_are_counted(tmp_path: Path) -> None:
    clock = Clock()
    first = Checkpoints(tmp_path, options(), clock=clock)
    clock.now += 5
    counted(first, 1)
    clock.now += 50  # lost
    second = Checkpoints(tmp_path, options(), clock=clock)
    clock.now += 3  # preparation is done again
    with second.loop() as loop:
        loop.restored()
        clock.now += 2
    assert second.seconds == 7


def test_what_a_step_logs_before_it_goes_on_was_logged_before(tmp_path: Path) -> None:
    counted(Checkpoints(tmp_path, options()), 1)
    again = Checkpoints(tmp_path, options())
    assert again.repeating
    with again.loop() as loop:
        loop.restored()
        assert not again.repeating
    assert not Checkpoints(tmp_path / "new", options()).repeating


def test_the_second_of_two_loops_goes_on_and_the_first_is_done_again(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, options())
    counted(first, 3)
    counted(first, 4)
    again = Checkpoints(tmp_path, options())
    assert counted(again, 3) is None
    assert again.repeating
    assert names(tmp_path) == ["2-00000003", "2-00000004"]
    assert counted(again, 6) == {"n": 4}
    assert names(tmp_path) == ["2-00000005", "2-00000006"]


@pytest.mark.parametrize(
    ("number", "ending", "status"),
    [(signal.SIGTERM, Terminated, 143), (signal.SIGINT, KeyboardInterrupt, None), (signal.SIGHUP, Terminated, 129)],
)
def test_a_signal_waits_for_the_next_safe_point(number: int, ending: Any, status: int | None, tmp_path: Path) -> None:
    interruption = Interruption()

    def at_four(n: int) -> None:
        if n == 4:
            signal.raise_signal(number)

    with interruption.installed(), pytest.raises(ending) as raised:
        counted(Checkpoints(tmp_path, options(steps=None), interruption), 9, before=at_four)
    assert names(tmp_path) == ["1-00000004"]
    assert status is None or raised.value.code == status


def test_a_second_signal_and_one_outside_a_loop_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.interruption.ECHO", 0.0)  # a second later
    interruption = Interruption()

    def twice(n: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with interruption.installed(), pytest.raises(Terminated):
        counted(Checkpoints(tmp_path / "a", options(), interruption), 3, before=twice)
    assert not (tmp_path / "a").exists()
    with Interruption().installed(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_waits_even_if_nobody_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("alignkit.interruption.os.write", closed)
    interruption = Interruption()
    with interruption.installed(), pytest.raises(Terminated):
        counted(Checkpoints(tmp_path, options(steps=None), interruption), 9, before=lambda _: signal.raise_signal(15))
    assert names(tmp_path) == ["1-00000001"]


def test_a_signal_behind_the_last_safe_point_is_not_forgotten(tmp_path: Path) -> None:
    interruption = Interruption()
    reached = []

    def late() -> None:
        with Checkpoints(tmp_path, None, interruption).loop():
            signal.raise_signal(signal.SIGTERM)
            reached.append(True)

    with interruption.installed(), pytest.raises(Terminated):
        late()
    assert reached


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts something in the place of what the processes agree on."""
    monkeypatch.setattr("alignkit.checkpoints.checkpoints.several", lambda: True)
    return lambda found: monkeypatch.setattr("alignkit.checkpoints.checkpoints.largest", found)


def test_a_signal_while_the_processes_agree_is_not_forgotten(tmp_path: Path, largest: Any) -> None:
    interruption = Interruption()

    def wait_for_others(x: torch.Tensor) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return x

    largest(wait_for_others)
    with interruption.installed(), interruption.listening():
        loop = CheckpointLoop(Checkpoints(tmp_path, options(steps=None), interruption), 1)
        assert loop._agreed(1) == (False, False)
        assert interruption.requested == signal.SIGTERM
        largest(lambda x: x)
        assert loop._agreed(2) == (True, False)
        interruption.requested = None


def test_a_signal_that_another_process_heard_first_is_no_second_one(tmp_path: Path, largest: Any) -> None:
    interruption = Interruption()
    largest(lambda x: torch.tensor([signal.SIGTERM, 0]))
    with interruption.installed(), interruption.listening():
        loop = CheckpointLoop(Checkpoints(tmp_path, options(steps=None), interruption), 1)
        assert loop._agreed(1) == (True, False)
        signal.raise_signal(signal.SIGTERM)  # while it writes the checkpoint
        interruption.requested = None


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption().installed():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, options()).loop() as loop:
        loop.safe_point(1, lambda: {"n": 1})
        monkeypatch.setattr("alignkit.checkpoints.files.save_file", full)
        with pytest.raises(Fault, match="checkpoint at 2 cannot be written: No space left"):
            loop.safe_point(2, lambda: {"n": 2})
    assert names(tmp_path) == ["1-00000001"]


def test_modules_come_back_and_another_one_is_refused() -> None:
    def module(width: int) -> torch.nn.Module:
        made = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width))
        made[0].bias.requires_grad_(False)
        return made

    one, other = module(4), module(4)
    one(torch.randn(8, 3))
    state = {name: tensor.clone() for name, tensor in module_state(one).items()}
    assert "0.weight" in state
    assert "1.running_mean" in state
    assert "0.bias" not in state
    restore_module(other, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module_state(other).items())
    untouched = module(5)
    before = untouched[0].weight.clone()  # type: ignore[index]
    with pytest.raises(UserError, match="another model"):
        restore_module(untouched, state)
    assert torch.equal(untouched[0].weight, before)  # type: ignore[index]


def test_another_number_of_threads_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counted(Checkpoints(tmp_path, options()), 1)
    before = torch.get_num_threads()
    with caplog.at_level(logging.WARNING, "alignkit"):
        counted(Checkpoints(tmp_path, options()), 1)
        assert not caplog.records
        torch.set_num_threads(before + 1)
        try:
            counted(Checkpoints(tmp_path, options()), 1)
        finally:
            torch.set_num_threads(before)
    assert f"threads {before}, and this is {before + 1}" in caplog.text


def test_a_machine_with_fewer_gpus_takes_up_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    put_back: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, device: put_back.append(device))
    state = random_state()
    restore_random({**state, **{f"cuda.{n}": state["torch"] for n in range(4)}})
    assert put_back == [0, 1]


def test_a_checkpoint_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.checkpoints.checkpoints.FORMAT", 2)
    counted(Checkpoints(tmp_path, options()), 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has form 2") as caught:
        counted(Checkpoints(tmp_path, options()), 1)
    assert "--from ID" in str(caught.value.hint)
    assert names(tmp_path) == ["1-00000001"]
