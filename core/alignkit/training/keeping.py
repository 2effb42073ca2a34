"""Models that a step keeps beside its last one: the best by a measured figure, and one every so many steps.

They are model folders like the last one and stay when the step is finished. Each has a note of its own that says when
it was written and what was measured.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from alignkit.context import StepContext
from alignkit.errors import UserError, did_you_mean
from alignkit.files import atomic_folder, read_json, write_json
from alignkit.hooks import notify
from alignkit.processes import is_first, on_first
from alignkit.protocols import State
from alignkit.training.config import DataTrainingConfig, KeepBestConfig

logger = logging.getLogger("alignkit")

BEST, EVERY, LAST = "best", "models", "model"
NOTE = "kept.json"


class Best(NamedTuple):
    """After how many steps or iterations it was, and its value."""

    at: int
    value: float


class Keeper:
    """Writes `best/` and `models/00000040/` into the step's folder and names them among `StepContext.kept`.

    `save(folder)` writes the model as it is now.
    """

    def __init__(
        self, best: KeepBestConfig | None, every: int, save: Callable[[Path], None], context: StepContext
    ) -> None:
        self.wanted = best
        self.every = every
        self._save = save
        self._context = context
        self._best: Best | None = None
        self._indices: list[int] = []
        self._total = 0

    def at(self, index: int, measured: Mapping[str, float], total: int) -> None:
        """Keep the model as it is after `index` of `total` steps or iterations, if it is one to keep.

        `measured` are the figures of a measurement that was made just now; empty if none was. Raises UserError if the
        wanted one is not among them. The last model is the step's own output and is not written twice.
        """
        self._total = total
        if measured and self.wanted is not None:
            value = float(measured[_known(self.wanted.metric, measured, self._context)])
            if self._improves(value):
                self._best = Best(index, value)
                self._write(BEST, {"index": index, "metric": self.wanted.metric, "value": value})
        if self.every and index and index % self.every == 0 and index not in self._indices:
            if index < total:
                self._write(_folder_of(index), {"index": index})
            self._indices.append(index)
        self._context.kept = self.outputs()

    def outputs(self) -> dict[str, str]:
        """Part -> path inside the step's folder: `best`, `at_40`, `at_80`."""
        found = {} if self._best is None else {BEST: BEST}
        return found | {f"at_{i}": _folder_of(i) if i < self._total else LAST for i in self._indices}

    def summary(self) -> dict[str, Any]:
        """Entries of the step's summary: when the best model was, by which figure, and its value."""
        if self.wanted is None:
            return {}
        if self._best is None:
            logger.warning("no measurement gave a number for %s: there is no best model", self.wanted.metric)
            return {"best": {"metric": self.wanted.metric, "at": None, "value": None}}
        return {"best": {"metric": self.wanted.metric, "at": self._best.at, "value": self._best.value}}

    def state(self) -> dict[str, Any]:
        """Which models there are; they are on the disk already."""
        last = self._indices[-1] if self._indices else 0
        return {"total": self._total, "last": last, "best": None if self._best is None else self._best.at}

    def restore(self, state: State) -> None:
        """Go on from a `state()`. A best model that was written after it is still the best one, by the note it has."""
        data: dict[str, Any] = dict(state)
        self._total = data["total"]
        self._indices = list(range(self.every, data["last"] + 1, self.every)) if self.every else []
        note = self._context.folder / BEST / NOTE
        if self.wanted is not None and note.is_file():
            written = read_json(note)
            self._best = Best(written["index"], written["value"])
        elif data["best"] is not None:
            # A kill between two renames: the old one was away and the new one, which comes again, not yet there.
            logger.warning("%s is gone: the best model is looked for anew", note.parent)
        self._context.kept = self.outputs()

    def _improves(self, value: float) -> bool:
        assert self.wanted is not None
        if not math.isfinite(value):
            return False
        return self._best is None or (
            value > self._best.value if self.wanted.mode == "max" else value < self._best.value
        )

    def _write(self, name: str, note: Mapping[str, Any]) -> None:
        """A model folder with its note, complete or not at all; listeners learn of it."""
        folder = self._context.folder / name
        if is_first():
            with atomic_folder(folder) as temp:
                temp.rmdir()  # a policy makes its folder itself
                self._save(temp)
                write_json(temp / NOTE, note)
        else:  # takes part in gathering what the first one writes
            self._save(folder)
        context, about = self._context, {"run": self._context.run, "step_id": self._context.step_id, "folder": folder}
        # The others wait as long as a listener takes, who may send the model somewhere.
        on_first(lambda: notify(context.manager, "alignkit_checkpoint", **about))


def _folder_of(index: int) -> str:
    return f"{EVERY}/{index:08d}"


def _known(metric: str, measured: Mapping[str, float], context: StepContext) -> str:
    if metric not in measured:
        raise UserError(
            f"keep_best.metric {metric!r} is not measured{did_you_mean(metric, list(measured))}",
            where=f"step {context.step_id}",
            hint=f"measured are {', '.join(measured)}",
        )
    return metric


class Measurement:
    """A measurement that remembers its last figures, so that the end of a training is not measured twice."""

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        self._measure = measure
        self._last: dict[str, float] | None = None

    def __call__(self) -> dict[str, float]:
        """Measure now."""
        self._last = self._measure()
        return self._last

    def last(self) -> dict[str, float]:
        """What was measured last, which is at the end wherever `train_steps` measures; else it is done now."""
        return self() if self._last is None else self._last


def heldout_evaluation(
    module: nn.Module, measure: Callable[[], dict[str, float]], there: bool, config: DataTrainingConfig, where: str
) -> Callable[[], dict[str, float]] | None:
    """What `train_steps` calls every `eval_every` steps: `measure`, after which the module is in the mode it was in.

    None if it is not asked for. `there`: whether there is something held out. Raises UserError if `keep_best` has
    nothing to go by.
    """
    if not config.eval_every:
        return None
    if not there:
        if config.keep_best is not None:
            raise UserError(
                "keep_best goes by measurements on held-out records, and there are none",
                where=where,
                hint="hold records back in the data step, or name eval_data",
            )
        logger.warning("%s: eval_every has no effect: there are no held-out records", where)
        return None

    def evaluate() -> dict[str, float]:
        with same_mode(module):
            return measure()

    return evaluate


@contextmanager
def same_mode(module: nn.Module) -> Iterator[None]:
    """Whatever is set to training or evaluation mode inside is put back."""
    before = [(m, m.training) for m in module.modules()]
    try:
        yield
    finally:
        for m, training in before:
            m.training = training
