"""Running a data stage on toy records and a tiny model, each run in a folder of its own."""

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from alignkit.checkpoints import Checkpoints
from alignkit.components import Kind
from alignkit.context import PARTS, StepContext
from alignkit.data.store import RecordFile, write_records
from alignkit.errors import Terminated
from alignkit.interruption import Interruption
from alignkit.manager import PluginManager
from alignkit.protocols import DataStage, FitTask, State
from alignkit.records import Record
from alignkit.testing.context import Rows, make_context
from alignkit.testing.contract import ComponentContract
from alignkit.testing.randomness import global_seed
from alignkit.testing.tiny import TinyPolicy, tiny_policy
from alignkit.testing.toy_records import toy_records


class Enough(BaseException):
    """Ends a run of which no more rows are looked at; no `except Exception` of a stage stops it."""


class Totals(Rows):
    """A tracker that also keeps what it was told to count to, and calls `act` after `limit` rows."""

    def __init__(self, limit: int | None = None, act: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.act = act or _enough
        self.totals: list[int | None] = []

    def log(self, step_id: str, index: int, metrics: Mapping[str, float]) -> None:
        """Keep the row."""
        super().log(step_id, index, metrics)
        if len(self.rows) == self.limit:
            self.act()

    def state(self) -> dict[str, int]:
        """How many rows there are; a checkpoint has it."""
        return {"rows": len(self.rows)}

    def restore(self, state: State) -> None:
        """Forget the rows behind a checkpoint."""
        del self.rows[int(cast("int", state["rows"])) :]

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """Keep the total."""
        self.totals.append(total)


def _enough() -> None:
    raise Enough


class Done(NamedTuple):
    """One finished run; `strays` are files outside its folder that were made or changed."""

    summary: dict[str, Any]
    folder: Path
    rows: list[tuple[int, dict[str, float]]]
    totals: list[int | None]
    strays: list[str]
    changed_records: list[str]

    @property
    def start(self) -> dict[str, Tensor]:
        """The weights that it started from."""
        return load_file(self.folder.parent / "start" / "model.safetensors")

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    @property
    def weights(self) -> dict[str, Tensor]:
        """Everything in the model's safetensors."""
        found: dict[str, Tensor] = {}
        for file in sorted(self.model.glob("*.safetensors")):
            found |= load_file(file)
        assert found, f"{self.model} holds no safetensors"
        return found


def _seen(root: Path, folder: Path) -> dict[str, int]:
    """Files below `root` and outside `folder`, with the time of their last change."""
    outside = (p for p in root.rglob("*") if p != folder and folder not in p.parents and p.is_file())
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in outside}


class StageRuns(ComponentContract):
    """What the checks of data stages share."""

    kind: ClassVar[Kind] = "optimizer_stage"
    count: ClassVar[int] = 24
    """Records to train on."""
    loss_metric: ClassVar[str] = "loss"
    """The logged metric that falls while the stage learns."""
    shuffles: ClassVar[bool] = True
    """Whether the seed decides the order of the records."""
    measures_heldout: ClassVar[bool] = True
    """Whether the summary has a figure of held-out records."""
    too_long: ClassVar[str | None] = "dropped_too_long"
    """The summary's count of records beyond the limit of length; None if records of any length are trained on whole."""
    long_words: ClassVar[int] = 150
    """Words of a record that is too long; the tiny model has 128 positions."""
    micro_batch_option: ClassVar[str | None] = "micro_batch_tokens"
    """The option that sets how much goes through the model at once; None if there is none."""

    _finished: ClassVar[dict[tuple[type, int], Done]] = {}

    @pytest.fixture(autouse=True)
    def _remember(self, manager: PluginManager, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._manager, self._folders = manager, tmp_path_factory

    @cached_property
    def part(self) -> str:
        """What the stage reads; `reads` itself has a check of its own."""
        folder = self._folders.mktemp("part")
        stage = self._stage(folder / "options", {}, make_context(folder, manager=self._manager))
        return stage.reads if stage.reads in PARTS else "texts"

    def start_policy(self) -> TinyPolicy:
        """The model that training starts from; `FitTask.model_path` is the folder it is saved in."""
        return tiny_policy()

    def plain(self, heldout: int = 0) -> Done:
        """The run with nothing special about it: made once, for all checks of the class that only look at it."""
        key = (type(self), heldout)
        if key not in self._finished:
            self._finished[key] = self.fit(self._folders.mktemp("plain") / "run", heldout=heldout)
        return self._finished[key]

    def fit(
        self,
        place: Path,
        further: Mapping[str, Any] | None = None,
        seed: int = 0,
        records: int | None = None,
        heldout: int = 0,
        given: Sequence[Record] | None = None,
        spoiled: bool = False,
        limit: int | None = None,
    ) -> Done:
        """Train a new stage in the folder `place`; `spoiled`: on a model with a weight that is not a number.

        `limit`: the run ends when it has logged so many rows, and writes no model.
        """
        names = self._prepare(place, self.count if records is None else records, heldout, given, spoiled)
        tracker = Totals(limit)
        task = self._task(place, names, seed, tracker)
        stage = self._stage(place / "options", further or {}, task.context)
        folder = task.context.folder
        before, texts = _seen(place.parent, folder), [(place / name).read_bytes() for name in names]
        (place / "here").mkdir()
        summary: dict[str, Any] = {}
        with chdir(place / "here"), suppress(Enough):
            summary = stage.fit(task)
        after = _seen(place.parent, folder)
        return Done(
            summary,
            folder,
            tracker.rows,
            tracker.totals,
            strays=sorted(name for name in after if after[name] != before.get(name)),
            changed_records=[n for n, text in zip(names, texts, strict=True) if (place / n).read_bytes() != text],
        )

    def interrupted(self, place: Path, rows: int, heldout: int = 0) -> Done | None:
        """The plain run, told to end when it has logged so many rows, and gone on with by a new stage on a new model.

        None if it did not end before it was done, as a stage that takes no checkpoints does.
        """
        names = self._prepare(place, self.count, heldout, None, False)
        interruption = Interruption()
        tracker = Totals(rows, lambda: setattr(interruption, "requested", signal.SIGTERM))
        for number, seed in enumerate((1, 2)):
            task = self._task(place, names, 0, tracker, interruption)
            stage = self._stage(place / f"options {number}", {}, task.context)
            with global_seed(seed), suppress(Terminated):
                summary = stage.fit(task)
                return Done(summary, task.context.folder, tracker.rows, tracker.totals, [], []) if number else None
            interruption.requested = None
        raise AssertionError("the stage ended itself once more when nobody told it to")

    def _prepare(
        self, place: Path, count: int, heldout: int, given: Sequence[Record] | None, spoiled: bool
    ) -> list[str]:
        """Make a run's folders, its records and the model that it starts from; returns the records' files."""
        (place / "step").mkdir(parents=True)
        self._save_start(place / "start", spoiled)
        return self._write(place, count, heldout, given)

    def _task(
        self, place: Path, names: Sequence[str], seed: int, tracker: Totals, interruption: Interruption | None = None
    ) -> FitTask:
        """What the step `train` would give the stage."""
        folder = place / "step"
        context = make_context(folder, seed, self._manager, self.device)
        context.trackers = (tracker,)
        context.kept_checkpoints = Checkpoints(
            folder / "checkpoints", interruption=interruption, trackers=context.trackers
        )
        files = [RecordFile[Any](place / name, PARTS[self.part]) for name in names]
        return FitTask(
            policy=lambda: self._load(place / "start"),
            model_path=str(place / "start"),
            data=files[0],
            eval_data=files[1] if len(files) > 1 else None,
            context=context,
        )

    def _save_start(self, folder: Path, spoiled: bool) -> None:
        policy = self.start_policy()
        if spoiled:
            with torch.no_grad():
                next(p for p in policy.module.parameters() if p.ndim == 1).fill_(float("nan"))
        policy.save(folder)

    def _load(self, folder: Path) -> TinyPolicy:
        policy = TinyPolicy.load(folder)
        policy.module.to(self.device)
        return policy

    def _write(self, place: Path, count: int, heldout: int, given: Sequence[Record] | None) -> list[str]:
        write_records(place / "train.jsonl", toy_records(self.part, count) if given is None else given)
        if not heldout:
            return ["train.jsonl"]
        write_records(place / "heldout.jsonl", toy_records(self.part, heldout, start=self.count))
        return ["train.jsonl", "heldout.jsonl"]

    def _stage(self, folder: Path, further: Mapping[str, Any], context: StepContext) -> DataStage:
        folder.mkdir()
        config = self.resolved({**self.make_options(folder), **further})
        stage: DataStage = self._manager.get(self.kind, self._reference()).build(config, context)
        return stage
