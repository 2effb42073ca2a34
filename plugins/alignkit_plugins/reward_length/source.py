"""Rewards that only read how long a completion is, in tokens of the policy, its stop token included."""

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import UserError


class Length:
    """Satisfies `alignkit.protocols.Scores`."""

    def __init__(self, coef: float, target: int) -> None:
        self.coef = coef
        self.target = target

    def score(self, rollout: Rollout) -> Tensor:
        """-coef * max(0, tokens - target), [B]."""
        return -self.coef * (lengths(rollout) - self.target).clamp(min=0)


class Overlong:
    """Satisfies `alignkit.protocols.Scores`."""

    def __init__(self, max_length: int, cache: int) -> None:
        self.max_length = max_length
        self.cache = cache

    def score(self, rollout: Rollout) -> Tensor:
        """The punishment of each completion, [B]."""
        return overlong_punishment(lengths(rollout), self.max_length, self.cache)


def overlong_punishment(lengths_B: Tensor, max_length: int, cache: int) -> Tensor:
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, equation 13), [B].

    0 up to max_length - cache, then ((max_length - cache) - length) / cache, -1 from max_length on.
    """
    return (((max_length - cache) - lengths_B) / cache).clamp(-1, 0)


def lengths(rollout: Rollout) -> Tensor:
    """Tokens of each completion, [B]. Raises UserError for texts without ids."""
    if rollout.text_only:
        raise UserError(
            "length and overlong count tokens, and this sampler gives texts without ids",
            where="reward source",
            hint="leave them out here, or draw from a policy",
        )
    return torch.tensor([float(len(ids)) for ids in rollout.completion_ids])
