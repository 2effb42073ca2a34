"""Which models are kept, where, under which names, and what of that an interruption may change: nothing."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from alignkit import hookimpl
from alignkit.errors import UserError
from alignkit.manager import PluginManager, PluginStatus
from alignkit.modeling.folders import check_model_path
from alignkit.testing.context import make_context
from alignkit.testing.experience import through_files
from alignkit.testing.measures import changed_weights, weights_of
from alignkit.testing.tiny import TinyPolicy, tiny_policy
from alignkit.training.config import DataTrainingConfig, KeepBestConfig
from alignkit.training.keeping import Keeper, Measurement, heldout_evaluation

VALUES = [3.0, 5.0, 4.0, 5.0, float("nan"), 7.0]  # measured at 2, 4, … 12


class Heard:
    """A listener of `alignkit_checkpoint`: what was there at that moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[str] = []

    @hookimpl
    def alignkit_checkpoint(self, folder: Path) -> None:
        """A whole model."""
        assert (folder / "config.json").is_file()
        self.seen.append(f"{folder.relative_to(self.folder)} {mark(folder):.0f}")


class Work:
    """A model that is one number: how many steps it has done."""

    def __init__(self, folder: Path, mode: Any = "max", every: int = 0) -> None:
        manager = PluginManager()
        self.heard = Heard(folder)
        manager.register(self.heard, PluginStatus("heard", "own", "1"))
        self.context = make_context(folder, manager=manager)
        self.steps = 0
        self.keeper = Keeper(
            KeepBestConfig(metric="score", mode=mode) if mode else None, every, self.save, self.context
        )

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        save_file({"steps": torch.tensor(float(self.steps))}, folder / "model.safetensors")

    def go(self, first: int = 1, last: int = 12, values: list[float] = VALUES) -> None:
        for step in range(first, last + 1):
            self.steps = step
            measured = {"score": values[step // 2 - 1], "loss": 0.0} if step % 2 == 0 else {}
            self.keeper.at(step, measured, 12)


def mark(folder: Path) -> float:
    """After how many steps the model in a folder was written."""
    return float(load_file(folder / "model.safetensors")["steps"])


@pytest.mark.parametrize(("mode", "best"), [("max", 12), ("min", 2)])
def test_the_best_model_is_the_one_with_the_best_measurement(tmp_path: Path, mode: str, best: int) -> None:
    work = Work(tmp_path, mode)
    work.go()
    assert mark(tmp_path / "best") == best
    value = {12: 7.0, 2: 3.0}[best]
    assert work.keeper.summary() == {"best": {"metric": "score", "at": best, "value": value}}
    assert json.loads((tmp_path / "best" / "kept.json").read_text()) == {
        "index": best,
        "metric": "score",
        "value": value,
    }
    assert work.context.kept == {"best": "best"}


def test_what_is_kept_is_a_model_that_loads(tmp_path: Path) -> None:
    policy = tiny_policy()
    keeper = Keeper(KeepBestConfig(metric="score", mode="max"), 1, policy.save, make_context(tmp_path))
    keeper.at(1, {"score": 1.0}, 2)
    for name in ("best", "models/00000001"):
        check_model_path(str(tmp_path / name))
        found = TinyPolicy.load(tmp_path / name).module.state_dict()
        assert changed_weights(weights_of(policy.module), found) == []


def test_it_is_written_when_it_gets_better_and_only_then(tmp_path: Path) -> None:
    """Of equals the first stays; a value that is not a number is not better than any."""
    work = Work(tmp_path)
    work.go()
    assert work.heard.seen == ["best 2", "best 4", "best 12"]


def test_every_so_many(tmp_path: Path) -> None:
    """The last one is the step's own model and is not written twice."""
    work = Work(tmp_path, None, every=4)
    work.go()
    assert work.context.kept == {"at_4": "models/00000004", "at_8": "models/00000008", "at_12": "model"}
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["00000004", "00000008"]
    assert [mark(tmp_path / "models" / f"{n:08d}") for n in (4, 8)] == [4, 8]
    assert work.heard.seen == ["models/00000004 4", "models/00000008 8"]
    assert work.keeper.summary() == {}


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    work = Work(tmp_path, None)
    work.go()
    assert (work.context.kept, work.keeper.summary(), list(tmp_path.iterdir())) == ({}, {}, [])


def test_a_metric_that_is_not_measured_is_named_with_those_that_are(tmp_path: Path) -> None:
    work = Work(tmp_path)
    with pytest.raises(UserError, match=r"'score' is not measured \(did you mean 'scores'\?\)") as error:
        work.keeper.at(2, {"scores": 1.0, "loss": 2.0}, 12)
    assert error.value.hint == "measured are scores, loss"


def test_without_any_number_there_is_no_best_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(tmp_path)
    work.go(values=[float("nan")] * 6)
    with caplog.at_level(logging.WARNING):
        assert work.keeper.summary()["best"] == {"metric": "score", "at": None, "value": None}
    assert "there is no best model" in caplog.text
    assert work.context.kept == {}


class TestTakenUp:
    @pytest.mark.parametrize("saved", [0, 1, 3, 4, 6, 11, 12])
    @pytest.mark.parametrize("done", [0, 1, 5])
    def test_it_ends_as_if_nothing_had_been(self, tmp_path: Path, saved: int, done: int) -> None:
        """Wherever the checkpoint was and however much was done behind it before the process died."""
        for name in ("whole", "run"):
            (tmp_path / name).mkdir()
        whole = Work(tmp_path / "whole", every=3)
        whole.go()
        first = Work(tmp_path / "run", every=3)
        first.go(1, saved)
        state = through_files(first.keeper.state(), tmp_path / "state")
        first.go(saved + 1, min(12, saved + done))
        second = Work(tmp_path / "run", every=3)
        second.keeper.restore(state)
        second.go(saved + 1)
        assert second.context.kept == whole.context.kept
        assert second.keeper.summary() == whole.keeper.summary()
        assert files(tmp_path / "run") == files(tmp_path / "whole")

    def test_with_nothing_left_to_do_its_parts_are_named_all_the_same(self, tmp_path: Path) -> None:
        first = Work(tmp_path, every=4)
        first.go()
        second = Work(tmp_path, every=4)
        second.keeper.restore(through_files(first.keeper.state(), tmp_path / "state"))
        assert second.context.kept == first.context.kept == first.keeper.outputs()

    def test_a_best_model_that_was_lost_is_looked_for_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A kill may come between the removal of the old folder and the arrival of the new one."""
        first = Work(tmp_path)
        first.go(1, 4)
        (tmp_path / "best").rename(tmp_path / ".best.old.tmp")
        second = Work(tmp_path)
        with caplog.at_level(logging.WARNING):
            second.keeper.restore(first.keeper.state())
        assert "best is gone" in caplog.text
        assert second.context.kept == {}
        second.go(5)
        assert mark(tmp_path / "best") == 12


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestEvaluation:
    def config(self, **options: Any) -> DataTrainingConfig:
        return DataTrainingConfig(lr=1e-3, **options)

    def test_the_best_of_one_measurement_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="keep_best needs eval_every"):
            self.config(keep_best={"metric": "heldout_loss", "mode": "min"})

    def test_the_module_is_in_the_mode_it_was_in(self) -> None:
        module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.5))
        module[1].eval()  # one part by itself
        config = self.config(eval_every=1)
        evaluate = heldout_evaluation(module, lambda: {"loss": float(module.eval().training)}, True, config, "")
        assert evaluate is not None
        assert evaluate() == {"loss": 0.0}
        assert [m.training for m in module.modules()] == [True, True, False]
        failing = heldout_evaluation(module, lambda: {"loss": 1 / len(module.eval()[:0])}, True, config, "")
        assert failing is not None
        with pytest.raises(ZeroDivisionError):
            failing()
        assert module.training

    def test_without_held_out_records(self, caplog: pytest.LogCaptureFixture) -> None:
        best = {"metric": "heldout_loss", "mode": "min"}
        with pytest.raises(UserError, match="there are none") as error:
            heldout_evaluation(torch.nn.Linear(1, 1), dict, False, self.config(eval_every=2, keep_best=best), "step a")
        assert error.value.where == "step a"
        with caplog.at_level(logging.WARNING):
            assert heldout_evaluation(torch.nn.Linear(1, 1), dict, False, self.config(eval_every=2), "step a") is None
        assert "step a: eval_every has no effect" in caplog.text

    def test_it_is_not_made_unless_asked_for(self) -> None:
        assert heldout_evaluation(torch.nn.Linear(1, 1), dict, True, self.config(), "") is None

    def test_the_end_is_not_measured_twice(self) -> None:
        figures = iter([{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}])
        measured = Measurement(lambda: next(figures))
        assert measured() == {"loss": 3.0}
        assert measured() == {"loss": 2.0}
        assert measured.last() == {"loss": 2.0}
        never_asked = Measurement(lambda: next(figures))
        assert never_asked.last() == never_asked.last() == {"loss": 1.0}
