"""Figures about a judge's work, and warnings where they say that it should not be trusted."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.records import Judgement

logger = logging.getLogger("alignkit")

LOW_MASS = 0.5
LOW_CONSISTENCY = 0.6
STRONG_POSITION = 0.2
# With fewer pairs these shares say little.
ENOUGH = 20


@dataclass
class Tally:
    """Counts over the judgements of one `annotate`."""

    status: Counter[str] = field(default_factory=Counter)
    masses: list[float] = field(default_factory=list)
    both_orders: list[tuple[float, float]] = field(default_factory=list)
    equal_texts: int = 0

    def add(self, judgement: Judgement) -> None:
        """Count one judgement."""
        self.status[judgement.status] += 1
        evidence = judgement.evidence
        if evidence is None or judgement.status != "ok":
            return
        if evidence.label_mass is not None:
            self.masses.append(evidence.label_mass)
        if evidence.p_given is not None and evidence.p_swapped is not None:
            self.both_orders.append((evidence.p_given, evidence.p_swapped))

    @property
    def total(self) -> int:
        """All judgements, those that failed too."""
        return self.status.total()

    def figures(self) -> dict[str, Any]:
        """Plain data for a summary."""
        found: dict[str, Any] = {"judged": self.total}
        failures = {status: n for status, n in sorted(self.status.items()) if status != "ok"}
        if failures:
            found["failed"] = failures
        if self.equal_texts:
            found["equal_texts_not_asked"] = self.equal_texts
        if self.both_orders:
            found["swap_consistency"] = _mean(_consistent(*pair) for pair in self.both_orders)
            found["first_shown_preferred"] = self.first_shown
        if self.masses:
            found["label_mass"] = _mean(self.masses)
        return found

    @property
    def first_shown(self) -> float:
        """Mean probability of whichever answer stood first: 0.5 for a judge without position bias."""
        return _mean((given + 1 - swapped) / 2 for given, swapped in self.both_orders)

    def warn(self, who: str) -> None:
        """Say what speaks against this judge."""
        if self.masses and _mean(self.masses) < LOW_MASS:
            logger.warning(
                "%s: only %.2f of its probability is on the labels, so it does not really answer the question; "
                "look at the template and the labels",
                who,
                _mean(self.masses),
            )
        if len(self.both_orders) < ENOUGH:
            return
        consistency = _mean(_consistent(*pair) for pair in self.both_orders)
        if consistency < LOW_CONSISTENCY:
            logger.warning(
                "%s: prefers the same answer in both orders in only %.0f %% of pairs", who, 100 * consistency
            )
        if abs(self.first_shown - 0.5) > STRONG_POSITION:
            logger.warning(
                "%s: strong position bias, the answer shown first is preferred with probability %.2f on average",
                who,
                self.first_shown,
            )


def _consistent(given: float, swapped: float) -> bool:
    return (given > 0.5 and swapped > 0.5) or (given < 0.5 and swapped < 0.5) or given == swapped == 0.5


def _mean(values: Iterable[float]) -> float:
    found: Sequence[float] = list(values)
    return sum(found) / len(found)
