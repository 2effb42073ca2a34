"""Signals, damaged checkpoints and changed recipes in mid-training: the run goes on, to the same bits."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import Terminated, UserError
from helpers.interrupted import LAST, RECIPE, STEP, Interrupter, Training

BY_STEPS = ("checkpoints={seconds: null, steps: 3}",)
RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated, signal.SIGHUP: Terminated}


def send(number: int, times: int = 1) -> Callable[[], None]:
    """Signals to this process; Python answers each before the next line."""

    def act() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return act


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run that nobody interrupted."""
    training = Training(tmp_path_factory.mktemp("whole"))
    here = Path.cwd()
    rows = training.run()
    os.chdir(here)
    assert [index for step, index in rows if step == STEP] == list(range(1, LAST + 1))
    return training


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)  # put back afterwards
    return Training(tmp_path / "work")


@pytest.fixture(autouse=True)
def every_signal_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they came more than a second apart."""
    monkeypatch.setattr("alignkit.interruption.ECHO", 0.0)


def stop(training: Training, at: int, *overrides: str, number: int = signal.SIGTERM, times: int = 1) -> None:
    """Run until the step's row `at`, where signals come."""
    with pytest.raises(RAISED[signal.Signals(number)]):
        training.run(*overrides, interrupter=Interrupter(at, send(number, times)))


def same(training: Training, whole: Training) -> None:
    """Every file is what it is in the run that was not interrupted."""
    mine, expected = training.content(), whole.content()
    assert len(expected) > 25
    # The recipe's record has the options of the checkpoints.
    del mine["recipe.json"], expected["recipe.json"]
    assert mine == expected


@pytest.mark.parametrize("number", RAISED)
def test_a_signal_saves_and_the_next_run_goes_on_to_the_same_bits(
    number: int, training: Training, whole: Training, caplog: pytest.LogCaptureFixture
) -> None:
    handler = signal.getsignal(number)
    stop(training, 11, number=number)  # in the second pass over the data
    assert signal.getsignal(number) is handler
    assert training.checkpoints() == ["1-00000011"]
    with caplog.at_level(logging.INFO, "alignkit"):
        rows = training.run()
    assert "going on from the checkpoint at 11" in caplog.text
    assert rows == [(STEP, index) for index in range(12, LAST + 1)]
    assert not (training.step_folder / "checkpoints").exists()
    same(training, whole)


def test_signals_that_come_together_are_one(
    training: Training, whole: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.interruption.ECHO", 60.0)
    stop(training, 8, *BY_STEPS, number=signal.SIGINT, times=3)
    assert training.checkpoints() == ["1-00000006", "1-00000008"]
    assert training.run()[0] == (STEP, 9)
    same(training, whole)


def test_a_second_signal_ends_at_once_and_the_older_checkpoint_is_used(training: Training, whole: Training) -> None:
    stop(training, 8, *BY_STEPS, number=signal.SIGINT, times=2)
    assert training.checkpoints() == ["1-00000003", "1-00000006"]
    assert training.run()[0] == (STEP, 7)
    same(training, whole)


def test_interrupted_again_and_again(training: Training, whole: Training) -> None:
    for at in (1, 2, 9, 13, LAST):
        stop(training, at)
        assert training.checkpoints()[-1] == f"1-{at:08d}"
    assert training.run() == []  # the last checkpoint stood behind the last optimizer step
    same(training, whole)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Lose the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "truncated weights": ("state.safetensors", cut),
    "flipped bit in the weights": ("state.safetensors", flip),
    "flipped bit in the values": ("state.json", flip),
    "missing values": ("state.json", Path.unlink),
    "missing checksum": ("checksums.json", Path.unlink),
    "empty checksum": ("checksums.json", lambda path: path.write_bytes(b"")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(
    case: str, training: Training, whole: Training, caplog: pytest.LogCaptureFixture
) -> None:
    name, damage = DAMAGE[case]
    stop(training, 8, *BY_STEPS, times=2)
    damage(training.step_folder / "checkpoints/1-00000006" / name)
    with caplog.at_level(logging.INFO, "alignkit"):
        assert training.run()[0] == (STEP, 4)
    said = next(r for r in caplog.records if "is damaged" in r.getMessage())
    assert said.levelno == logging.WARNING
    assert "1-00000006" in said.getMessage()
    assert "the one before it, 1-00000003, is used" in said.getMessage()
    assert "going on from the checkpoint at 3" in caplog.text
    same(training, whole)


def test_when_all_are_damaged_the_step_starts_over_and_says_so(
    training: Training, whole: Training, caplog: pytest.LogCaptureFixture
) -> None:
    stop(training, 8, *BY_STEPS, times=2)
    for path in (training.step_folder / "checkpoints").iterdir():
        flip(path / "state.safetensors")
    with caplog.at_level(logging.INFO, "alignkit"):
        assert training.run()[0] == (STEP, 1)
    assert "the step starts over" in caplog.text
    assert "going on from" not in caplog.text
    same(training, whole)


def test_a_changed_option_is_refused_while_there_are_checkpoints(training: Training, whole: Training) -> None:
    stop(training, 7)
    before = training.content()
    with pytest.raises(UserError, match=r"sft\.optimizer_stage\.lr changed from") as caught:
        training.run("sft.optimizer_stage.lr=0.5")
    assert "--from sft" in str(caught.value.hint)
    assert training.content() == before
    assert training.run("checkpoints.steps=1", "checkpoints.keep=5")[0] == (STEP, 8)  # no part of the result
    same(training, whole)


def test_a_run_that_was_moved_goes_on(training: Training, whole: Training, tmp_path: Path) -> None:
    stop(training, 7)
    training.folder.rename(tmp_path / "elsewhere")
    moved = Training(tmp_path / "elsewhere")
    assert moved.run()[0] == (STEP, 8)
    same(moved, whole)


def test_from_throws_the_checkpoint_away(training: Training, whole: Training) -> None:
    stop(training, 7)
    assert training.run(start_from=STEP)[0] == (STEP, 1)
    same(training, whole)


def test_an_unfinished_step_without_checkpoint_starts_over(training: Training, whole: Training) -> None:
    stop(training, 1, "checkpoints.seconds=null", times=2)
    assert training.checkpoints() == []
    (training.step_folder / "half.txt").write_text("left over")
    assert training.run()[0] == (STEP, 1)
    same(training, whole)


def test_a_first_checkpoint_that_was_never_complete_is_none(training: Training, whole: Training) -> None:
    stop(training, 1, "checkpoints.seconds=null", times=2)
    (training.step_folder / "checkpoints/.1-00000001.tmp").mkdir(parents=True)
    (training.step_folder / "half.txt").write_text("left over")
    assert training.run("sft.optimizer_stage.lr=0.5")[0] == (STEP, 1)  # there is nothing that a change would spoil
    assert training.run(start_from=STEP)[0] == (STEP, 1)
    same(training, whole)


def test_rows_of_metrics_that_come_again_are_not_doubled(training: Training, whole: Training) -> None:
    stop(training, 8, *BY_STEPS, times=2)
    rows = (training.step_folder / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 7  # one of them behind the checkpoint
    with (training.step_folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": "sft", "ind')  # a row that a kill cut off
    training.run()
    same(training, whole)


PLUGIN = """\
import os, signal
from alignkit import Component, hookimpl
from alignkit.components import NoConfig

class At:
    def start(self, step_id, total, unit): ...
    def close(self): ...
    def log(self, step_id, index, metrics):
        if (step_id, index) == ("sft", 7) and "SEND" in os.environ:
            os.kill(os.getpid(), getattr(signal, os.environ["SEND"]))

@hookimpl
def alignkit_trackers():
    return [Component("at", lambda config, context: At(), NoConfig, tags=frozenset({"default"}))]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGKILL", -9, "")]
)
def test_exit_status_and_words_of_the_command(
    name: str, status: int, word: str, tmp_path: Path, whole: Training
) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/at.py").write_text(PLUGIN)

    def command(**environment: str) -> "subprocess.CompletedProcess[str]":
        arguments = ["run", "small.yaml", "--plugins-dir", "plugins", *BY_STEPS]
        return subprocess.run(
            [sys.executable, "-m", "alignkit.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    stopped = command(SEND=name)
    assert stopped.returncode == status, stopped.stderr
    assert "Traceback" not in stopped.stderr
    training = Training(tmp_path)
    if word:
        assert f"{word}; run the same command again" in stopped.stderr
        assert "stopping as soon as the state is saved" in stopped.stderr
    assert training.checkpoints()[-1] == ("1-00000007" if word else "1-00000006")
    again = command()
    assert again.returncode == 0, again.stderr
    assert f"going on from the checkpoint at {7 if word else 6}" in again.stderr
    weights = f"r1/03-{STEP}/model/model.safetensors"
    assert (training.run_folder / weights).read_bytes() == (whole.run_folder / weights).read_bytes()
    for name in ("metrics.jsonl", "summary.json"):
        assert (training.run_folder / name).read_text() == (whole.run_folder / name).read_text()
