"""A training loop that was interrupted ends with the very weights, rows and counts of one that was not."""

import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alignkit.checkpoints import CheckpointLoop, Checkpoints
from alignkit.context import StepContext
from alignkit.interruption import Interruption
from alignkit.recipe.model import CheckpointOptions
from alignkit.testing.context import make_context
from alignkit.training.config import DataTrainingConfig
from alignkit.training.loop import train_steps
from alignkit.training.nonfinite import FILE
from alignkit_plugins.tracker_jsonl.tracker import JsonlTracker

ROWS = 10
CONFIG = DataTrainingConfig(lr=0.05, batch_size=4, epochs=2.4, log_every=3, warmup=0.3)
STEPS = 7


def context_of(folder: Path, interruption: Interruption, steps: int | None = 1) -> StepContext:
    """As the engine makes it for a step that it takes up again."""
    context = make_context(folder)
    context.folder = folder
    context.trackers = [JsonlTracker(folder)]
    options = CheckpointOptions(seconds=None, steps=steps)
    context.kept_checkpoints = Checkpoints(folder / "checkpoints", options, interruption, context.trackers)
    return context


def train(folder: Path, stop_in: int | None = None, steps: int | None = 1) -> tuple[dict[str, Any], dict[str, float]]:
    """Weights and totals at the end; with `stop_in` a signal comes in that step of this try."""
    interruption = Interruption()
    context = context_of(folder, interruption, steps)
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Linear(8, 1))
    data_NF = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
    totals = {"rows": 0.0}
    calls = 0
    context.log(0, {"before": 1.0})

    def accumulate(indices: Sequence[int]) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == stop_in:
            interruption.requested = 15
        loss = (module(data_NF[list(indices)]) - 1).square().mean()
        torch.autograd.backward(loss)
        totals["rows"] += len(indices)
        return {"loss": float(loss.detach()), "odd": float("nan") if calls % 2 else 1.0}

    try:
        assert train_steps(module, ROWS, CONFIG, context, accumulate, totals=totals) == STEPS
        context.log(STEPS, {"heldout": 2.0})
    finally:
        for tracker in context.trackers:
            tracker.close()
    return module.state_dict(), totals


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.pop("odd", None)  # counted by calls, which are others in another try
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, float], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("whole")
    weights, totals = train(folder)
    return weights, totals, rows(folder)


@pytest.mark.parametrize("steps", [1, 2, None])
@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_interrupted_in_any_step(stop: int, steps: int | None, whole: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path, stop_in=stop, steps=steps)
    weights, totals = train(tmp_path, steps=steps)
    assert all(torch.equal(tensor, whole[0][name]) for name, tensor in weights.items())
    assert totals == whole[1]
    assert rows(tmp_path) == whole[2]


def test_killed_without_a_word(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged and trained behind the newest checkpoint is done again, and no row is there twice."""

    class Killed(BaseException):
        pass

    log = JsonlTracker.log

    def log_and_die(self: JsonlTracker, step_id: str, index: int, metrics: Any) -> None:
        log(self, step_id, index, metrics)
        if index == 6:
            raise Killed

    monkeypatch.setattr(JsonlTracker, "log", log_and_die)
    with pytest.raises(Killed):
        train(tmp_path, steps=4)
    monkeypatch.undo()
    weights, totals = train(tmp_path, steps=4)
    assert all(torch.equal(tensor, whole[0][name]) for name, tensor in weights.items())
    assert totals == whole[1]
    assert rows(tmp_path) == whole[2]


def test_interrupted_again_and_again(whole: Any, tmp_path: Path) -> None:
    for _ in range(STEPS):
        with pytest.raises(SystemExit):
            train(tmp_path, stop_in=1)
    weights, totals = train(tmp_path)
    assert all(torch.equal(tensor, whole[0][name]) for name, tensor in weights.items())
    assert (totals, rows(tmp_path)) == (whole[1], whole[2])


class Killed(BaseException):
    """The process is gone."""


def one_layer(folder: Path, at_step: Callable[[int], None] = lambda step: None) -> StepContext:
    """Seven steps, a checkpoint behind the fifth; the fourth and sixth of a try meet a row that is not finite."""
    context = context_of(folder, Interruption(), 5)
    module = nn.Linear(1, 1)
    config = CONFIG.model_copy(update={"batch_size": 2, "epochs": 7.0, "on_nonfinite": "skip"})
    calls = 0

    def accumulate(indices: Sequence[int]) -> dict[str, float]:
        nonlocal calls
        if len(indices) == 2:  # not one of the rows that are computed alone
            calls += 1
            at_step(calls)
        loss = module(torch.ones(len(indices), 1)).sum()
        if calls in (4, 6) and 1 in indices:
            loss = loss * float("nan")
        torch.autograd.backward(loss)
        return {"loss": float(loss.detach())}

    train_steps(module, 2, config, context, accumulate)
    return context


def test_rows_that_are_not_finite_are_saved_once(tmp_path: Path) -> None:
    def die(step: int) -> None:
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        one_layer(tmp_path, die)
    assert [json.loads(line)["step"] for line in (tmp_path / FILE).read_text().splitlines()] == [4, 6]
    # Of the steps that are done again, 6 and 7, none meets such a row: what was counted behind the checkpoint is gone.
    assert one_layer(tmp_path).counts == {"steps_left_out": 1}
    assert [json.loads(line)["step"] for line in (tmp_path / FILE).read_text().splitlines()] == [4]
    assert one_layer(tmp_path / "whole").counts == {"steps_left_out": 2}


def test_the_state_that_was_taken_up_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(step: int) -> None:
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        one_layer(tmp_path, die)
    tensors: list[weakref.ref[torch.Tensor]] = []
    restored = CheckpointLoop.restored

    def remembered(loop: CheckpointLoop) -> dict[str, Any] | None:
        state = restored(loop)
        assert state is not None
        tensors.extend(weakref.ref(v) for v in state.values() if isinstance(v, torch.Tensor) and v.ndim)
        return state

    monkeypatch.setattr(CheckpointLoop, "restored", remembered)
    alive: list[int] = []
    one_layer(tmp_path, lambda step: alive.append(sum(t() is not None for t in tensors)))
    assert len(tensors) > 5
    assert alive == [0, 0]
