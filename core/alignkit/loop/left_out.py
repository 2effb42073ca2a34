"""Completions that no score could be had for: their groups are left out of the batch, and counted."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import Fault
from alignkit.loop.guarded import FILE, Scored
from alignkit.loop.rollouts import select_rows
from alignkit.protocols import State

IN_A_ROW = 10
COUNTS = ("completions", "batches", "in_a_row", "updates")


def without_failed(rollout: Rollout, scored: Scored) -> tuple[Rollout, Tensor] | None:
    """The groups of which every completion has a score, or None if no group is left.

    Whole groups: an estimator that compares completions of one prompt must not see a part of them.
    """
    failed = {int(rollout.group_B[b]) for b in scored.problems}
    rows = [b for b, group in enumerate(rollout.group_B.tolist()) if group not in failed]
    if not failed:
        return rollout, scored.scores_B
    return (select_rows(rollout, rows), scored.scores_B[rows]) if rows else None


@dataclass
class LeftOut:
    """How many sampled completions were left out because a reward source could not score their prompts."""

    name: str
    completions: int = 0
    batches: int = 0
    in_a_row: int = 0
    updates: int = 0  # that the optimizer stage left out, because a loss or gradient was not finite

    def count(self, before: int, kept: int) -> None:
        """Note a batch of which `kept` completions are left. Raises Fault if ten in a row were left out whole."""
        self.completions += before - kept
        self.batches += not kept
        self.in_a_row = 0 if kept else self.in_a_row + 1
        if self.in_a_row == IN_A_ROW:
            raise Fault(
                f"{self.name} could score no prompt of the last {IN_A_ROW} batches",
                hint=f"{FILE} in the step's folder has what it was asked and what it said",
            )

    def state(self) -> dict[str, int]:
        """The counts."""
        return {name: getattr(self, name) for name in COUNTS}

    def restore(self, state: State) -> None:
        """Take over a `state()`."""
        data: dict[str, Any] = dict(state)
        for name in COUNTS:
            setattr(self, name, data[name])
