"""A loss or gradient that is not finite: found before the optimizer sees it, and traced to its rows.

Whether the run stops or goes on without the batch (`on_nonfinite`), weights and moments are those of the step before.
The schedule counts the step that was left out as taken, so that it ends where it would have; AdamW's own count of
steps, which its bias correction goes by, does not.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from alignkit.batches import Row
from alignkit.checkpoints import RowFile
from alignkit.errors import Fault, UserError
from alignkit.modeling.sharding import all_finite, sum_gradients, total_norm
from alignkit.protocols import State

logger = logging.getLogger("alignkit")

FILE = "nonfinite.jsonl"
IN_A_ROW = 10

# index of a row -> what a person needs to find it again: its text, where it came from
Describe = Callable[[int], Mapping[str, Any]]
# (indices of some rows) -> metrics; gradients are put in place
Accumulate = Callable[[Sequence[int]], dict[str, float]]


class Trouble(NamedTuple):
    """Loss and gradient norm of some rows."""

    losses: dict[str, float]
    norm: float

    @property
    def finite(self) -> bool:
        """Whether all of it is."""
        return all(map(math.isfinite, (*self.losses.values(), self.norm)))

    def __str__(self) -> str:
        parts = {**self.losses, "gradient norm": self.norm}
        return ", ".join(f"{name} {value:g}" for name, value in parts.items() if not math.isfinite(value))


class NonFinite:
    """Stands between the gradients of a batch and the optimizer.

    `losses` are the metrics that have to be finite; another one may be NaN, as of a batch without what it is the mean
    of. Counts are part of a checkpoint.
    """

    def __init__(
        self,
        policy: Literal["stop", "skip"],
        parameters: Iterable[nn.Parameter],
        rows: RowFile,
        where: str,
        describe: Describe | None = None,
        losses: Sequence[str] = ("loss",),
    ) -> None:
        self.policy = policy
        self.parameters = [p for p in parameters if p.requires_grad]
        self.rows = rows
        self.where = where
        self.describe = describe
        self.losses = losses
        self.skipped = 0
        self.in_a_row = 0

    def accumulated(
        self, step: int, indices: Sequence[int], accumulate: Accumulate, totals: dict[str, float] | None = None
    ) -> dict[str, float] | None:
        """Metrics of the batch with its gradients in place, or None: it was left out, and no gradient is left.

        `totals` is what `accumulate` counts in; a batch that is left out does not count. Raises Fault if it is not
        finite and `stop` is the policy, or if it is the tenth in a row.
        """
        before = dict(totals or {})
        metrics = accumulate(indices)
        sum_gradients(self.parameters)
        found = self._trouble(metrics)
        if found.finite:
            self.in_a_row = 0
            return metrics
        self._refuse(step, found, indices, accumulate)
        if totals is not None:
            totals.update(before)
        return None

    def _refuse(self, step: int, found: Trouble, indices: Sequence[int], accumulate: Accumulate) -> None:
        """Save the rows behind what is not finite, then stop or count."""
        self.clear()
        rows, alone = self._rows(indices, accumulate)
        self.clear()
        said = f"{found} at step {step}: {self._who(rows, alone, len(indices))}"
        self._save(step, rows)
        self.skipped += 1
        self.in_a_row += 1
        saved = f"the rows are in {self.rows.path}"
        if self.policy == "stop":
            hint = "lower the learning rate, look at these rows, use float32, or leave such batches out with"
            raise Fault(said, where=self.where, hint=f"{saved}; {hint} on_nonfinite: skip")
        if self.in_a_row == IN_A_ROW:
            raise Fault(
                f"{IN_A_ROW} batches in a row are not finite, the last: {said}",
                where=self.where,
                hint=f"{saved}; leaving them out does not help: lower the learning rate or use float32",
            )
        logger.warning("%s: %s: the batch is left out; %s", self.where, said, saved)

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, int]:
        """The counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: State) -> None:
        """Take over a `state()`."""
        data: dict[str, Any] = dict(state)
        self.skipped, self.in_a_row = data["skipped"], data["in_a_row"]

    def _trouble(self, metrics: Mapping[str, float]) -> Trouble:
        """The losses among `metrics` and the norm of the gradients in place."""
        losses = {name: float(metrics[name]) for name in self.losses if name in metrics}
        return Trouble(losses, gradient_norm(self.parameters))

    def _rows(self, indices: Sequence[int], accumulate: Accumulate) -> tuple[list[dict[str, Any]], int]:
        """One entry for each row of the batch, computed alone, and how many are not finite alone."""
        rows: list[dict[str, Any]] = []
        alone = 0
        # Generators are put back, so that what follows draws what it would have drawn.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else ()):
            for index in indices:
                row: dict[str, Any] = {"index": index}
                try:
                    metrics = accumulate([index])
                    sum_gradients(self.parameters)
                    found = self._trouble(metrics)
                    row |= {name: _plain(value) for name, value in found.losses.items()}
                    row |= {"gradient_norm": _plain(found.norm), "finite": found.finite}
                except UserError as error:  # a row that has nothing to learn from by itself
                    row |= {"finite": True, "not_computed_alone": error.what}
                self.clear()
                alone += not row["finite"]
                rows.append(row | (dict(self.describe(index)) if self.describe is not None else {}))
        return rows, alone

    def _who(self, rows: Sequence[Mapping[str, Any]], alone: int, count: int) -> str:
        if not all_finite(self.parameters):
            return "the model's weights are not finite themselves"
        if alone == 0:
            return f"no row of the batch of {count} is alone so"
        bad = [row for row in rows if not row["finite"]]
        text = str(bad[0].get("text", ""))
        shown = f", text {text if len(text) <= 200 else text[:200] + '…'!r}" if text else ""
        source = f" ({bad[0]['source']})" if "source" in bad[0] else ""
        return f"{alone} of {count} rows, first row {bad[0]['index']}{source}{shown}"

    def _save(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """The culprits, or the whole batch if no row is one alone."""
        bad = [row for row in rows if not row["finite"]] or list(rows)
        self.rows.append({"step": step, **row} for row in bad)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Global 2-norm of the gradients in place, in float32 at least; 0 if there is none."""
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    return float(total_norm(gradients)) if gradients else 0.0


def _plain(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)


def texts_of(decode: Callable[[Sequence[int]], str], rows: Iterable[Row]) -> dict[str, Any]:
    """Rows of token ids for people; several are the texts of one group."""
    found = list(rows)
    return {"text": "\n---\n".join(decode(row.ids) for row in found), "tokens": [len(row.ids) for row in found]}
