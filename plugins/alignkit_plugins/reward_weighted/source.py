"""Adds up the scores of several sources."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.context import BuildContext
from alignkit.errors import Fault, UserError
from alignkit.loop.scores import checked_scores
from alignkit.masked import whiten
from alignkit.protocols import BatchRelative, ReportsFigures, Scores, shares_work
from alignkit_plugins.reward_weighted.config import WeightedConfig


class Part(NamedTuple):
    """One term of the sum."""

    name: str
    source: Scores
    weight: float
    by_batch: bool


class WeightedSum:
    """sum_i weight_i * score_i, [B]. Satisfies `Scores`, `ReportsFigures` and `BatchRelative`."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._figures: dict[str, float] = {}

    def shares_work(self, context: BuildContext) -> bool:
        """Where all of its sources do."""
        return all(shares_work(part.source, context) for part in self.parts)

    @property
    def batch_relative(self) -> bool:
        """Whether a term is normalised over the batch, here or further inside."""
        return any(
            part.by_batch or (isinstance(part.source, BatchRelative) and part.source.batch_relative)
            for part in self.parts
        )

    def score(self, rollout: Rollout) -> Tensor:
        """The weighted sum for each completion, [B]. Raises Fault, with the source's name, for scores not finite."""
        total_B = torch.zeros(len(rollout))
        self._figures = {}
        for part in self.parts:
            scores_B = _scores_of(part, rollout)
            self._figures |= _figures_of(part, scores_B)
            if part.by_batch:
                scores_B = whiten(scores_B, torch.ones_like(scores_B, dtype=torch.bool))
            total_B += part.weight * scores_B
        return total_B

    def figures(self) -> Mapping[str, float]:
        """`reward/NAME`: each source's mean in the last call, before normalisation and weight."""
        return self._figures


def _scores_of(part: Part, rollout: Rollout) -> Tensor:
    try:
        return checked_scores(part.source, rollout)
    except Fault as fault:
        raise Fault(f"source {part.name!r}: {fault.what}", where=fault.where, hint=fault.hint) from fault


def _figures_of(part: Part, scores_B: Tensor) -> dict[str, float]:
    figures = {f"reward/{part.name}": float(scores_B.mean())}
    if isinstance(part.source, ReportsFigures):
        inner = part.source.figures()
        figures |= {f"reward/{part.name}/{key.removeprefix('reward/')}": value for key, value in inner.items()}
    return figures


def build_sum(config: WeightedConfig, context: BuildContext) -> WeightedSum:
    """Build each source. Raises UserError for one that gives no scores."""
    parts = []
    for name, spec in config.sources.items():
        source = context.build("reward_source", spec)
        if not hasattr(source, "score"):
            raise UserError(
                f"reward source {spec.name!r} gives judgements, not scores, so it cannot be added up",
                where=f"sources.{name}",
                hint="collect its judgements, train a reward_model on them and use that here",
            )
        by_batch = config.normalise.get(name) == "batch"
        parts.append(Part(name, source, config.weights.get(name, 1.0), by_batch))
    return WeightedSum(parts)
