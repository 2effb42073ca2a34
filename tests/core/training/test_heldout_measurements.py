"""Measuring while a data stage trains, and keeping the best model: nothing of it changes what is learned."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from alignkit.checkpoints import Checkpoints
from alignkit.context import PARTS
from alignkit.data.store import RecordFile, write_records
from alignkit.errors import Terminated, UserError
from alignkit.interruption import Interruption
from alignkit.manager import PluginManager
from alignkit.protocols import FitTask
from alignkit.recipe import ComponentSpec
from alignkit.testing.context import make_context
from alignkit.testing.measures import changed_weights
from alignkit.testing.randomness import global_seed
from alignkit.testing.tiny import TinyPolicy, tiny_policy
from alignkit.testing.toy_records import toy_records
from alignkit_plugins.tracker_jsonl.tracker import JsonlTracker

OPTIONS: dict[str, Any] = {"lr": 2e-3, "epochs": 1.5, "batch_size": 4, "log_every": 1}
STEPS = 9
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {"block_length": 16, "batch_size": 2, "epochs": 1.3},
    "sft": {},
    # Drawn from the global generator, which a measurement must leave alone.
    "reward_model": {"dropout": 0.2, "overrides": {"attention_dropout": 0.2}},
    "dpo": {},
    "kto": {"reads": "preferences"},
    "orpo": {},
}
FIGURES = {
    "pretrain": {"heldout_loss"},
    "sft": {"heldout_loss"},
    "reward_model": {"heldout_accuracy", "heldout_loss"},
    "dpo": {"heldout_loss", "heldout_accuracy", "heldout_margin"},
    "kto": {"heldout_accuracy", "heldout_margin"},
    "orpo": {"heldout_loss", "heldout_accuracy", "heldout_margin"},
}


class Fit:
    """One stage on 24 records and 8 held-out ones, in a folder of its own."""

    def __init__(self, folder: Path, stage: str, heldout: int = 8, **options: Any) -> None:
        self.folder = folder
        self.spec = ComponentSpec(name=stage, **{**OPTIONS, **STAGES[stage], **options})
        folder.mkdir()
        tiny_policy().save(folder / "start")
        self.manager = PluginManager()
        self.manager.load()
        self.heldout = heldout
        part = {"pretrain": "texts", "sft": "demonstrations"}.get(stage, "preferences")
        self.record = PARTS[part]
        write_records(folder / "data.jsonl", toy_records(part, 24))
        write_records(folder / "heldout_data.jsonl", toy_records(part, heldout, start=24))

    def run(self, told_at: int | None = None, seed: int = 1) -> dict[str, Any]:
        """Fit; `told_at`: a signal comes when so many rows are on the disk."""
        context = make_context(self.folder, manager=self.manager)
        self.context, interruption = context, Interruption()
        context.trackers = (Telling(self.folder, told_at, interruption),)
        context.kept_checkpoints = Checkpoints(
            self.folder / "checkpoints", interruption=interruption, trackers=context.trackers
        )
        held = RecordFile[Any](self.folder / "heldout_data.jsonl", self.record) if self.heldout else None
        data = RecordFile[Any](self.folder / "data.jsonl", self.record)
        start = self.folder / "start"
        task = FitTask(lambda: TinyPolicy.load(start), str(start), data, held, context)
        with global_seed(seed):
            return dict(context.build("optimizer_stage", self.spec).fit(task))

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def measured(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if any(name.startswith("heldout_") for name in row)]

    def weights(self, part: str = "model") -> dict[str, Tensor]:
        return load_file(self.folder / part / "model.safetensors")


class Telling(JsonlTracker):
    """Sends the run a signal, in a manner of speaking, with a row."""

    def __init__(self, folder: Path, at: int | None, interruption: Interruption) -> None:
        super().__init__(folder)
        self.at, self.interruption, self.count = at, interruption, 0

    def log(self, step_id: str, index: int, metrics: Any) -> None:
        super().log(step_id, index, metrics)
        self.count += 1
        if self.count == self.at:
            self.interruption.requested = signal.SIGTERM


def train_rows(fit: Fit) -> list[dict[str, Any]]:
    return [row for row in fit.rows() if row not in fit.measured()]


@pytest.mark.parametrize("stage", STAGES)
def test_measuring_changes_nothing_that_is_learned(tmp_path: Path, stage: str) -> None:
    plain, measured = Fit(tmp_path / "plain", stage), Fit(tmp_path / "measured", stage, eval_every=2)
    summary, same = plain.run(), measured.run()
    assert changed_weights(plain.weights(), measured.weights()) == []
    assert train_rows(plain) == train_rows(measured)
    assert summary == same


@pytest.mark.parametrize("stage", STAGES)
def test_figures_come_every_so_many_steps_and_at_the_end(tmp_path: Path, stage: str) -> None:
    """The last ones are those of a run that measures at the end alone, and stand there once."""
    ends, fit = Fit(tmp_path / "ends", stage), Fit(tmp_path / "fit", stage, eval_every=4)
    ends.run()
    fit.run()
    total = train_rows(fit)[-1]["index"]
    assert total % 4
    assert [row["index"] for row in fit.measured()] == [*range(4, total, 4), total]
    assert all(row.keys() - {"step", "index"} == FIGURES[stage] for row in fit.measured())
    assert fit.measured()[-1:] == ends.measured()
    assert len({json.dumps({**row, "index": 0}) for row in fit.measured()}) > 1


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_best_model_is_that_of_the_best_measurement(tmp_path: Path, stage: str, mode: str) -> None:
    metric = "heldout_margin" if stage == "kto" else "heldout_loss"
    fit = Fit(tmp_path / "fit", stage, eval_every=2, keep_best={"metric": metric, "mode": mode}, keep_every=2)
    summary = fit.run()
    values = {row["index"]: row[metric] for row in fit.measured()}
    at = {"min": min, "max": max}[mode](values, key=values.__getitem__)
    assert summary["best"] == {"metric": metric, "at": at, "value": values[at]}
    kept = {index: fit.weights(fit.context.kept.get(f"at_{index}", "model")) for index in values}
    same = [index for index in kept if not changed_weights(fit.weights("best"), kept[index])]
    assert same == [at]


@pytest.mark.parametrize("stage", ["sft", "reward_model"])
@pytest.mark.parametrize("told_at", [1, 3, 5, 9])
def test_an_interruption_changes_nothing_of_it(tmp_path: Path, stage: str, told_at: int) -> None:
    options: dict[str, Any] = {
        "eval_every": 2,
        "keep_best": {"metric": "heldout_loss", "mode": "max"},
        "keep_every": 3,
    }
    whole, fit = Fit(tmp_path / "whole", stage, **options), Fit(tmp_path / "fit", stage, **options)
    summary = whole.run()
    with pytest.raises(Terminated):
        fit.run(told_at)
    assert fit.run(seed=2) == summary
    assert fit.rows() == whole.rows()
    assert fit.context.kept == whole.context.kept
    for part in {*whole.context.kept.values(), "model"}:
        assert changed_weights(fit.weights(part), whole.weights(part)) == []


@pytest.mark.parametrize("stage", STAGES)
def test_what_cannot_be_measured_is_said(tmp_path: Path, stage: str) -> None:
    unknown = Fit(tmp_path / "unknown", stage, eval_every=2, keep_best={"metric": "heldout_los", "mode": "min"})
    with pytest.raises(UserError, match="'heldout_los' is not measured") as error:
        unknown.run()
    assert set((error.value.hint or "").removeprefix("measured are ").split(", ")) == FIGURES[stage]
    assert [row["index"] for row in unknown.measured()] == [2]
    best = {"metric": "heldout_loss", "mode": "min"}
    nothing = Fit(tmp_path / "nothing", stage, heldout=0, eval_every=2, keep_best=best)
    with pytest.raises(UserError, match="there are none"):
        nothing.run()
    assert not (nothing.folder / "metrics.jsonl").exists()
