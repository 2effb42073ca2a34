"""Nothing is wrong with this one: a broken neighbour in the same package does not take it down."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.batches import Rollout


class Constant:
    """Satisfies `alignkit.protocols.Scores`."""

    def score(self, rollout: "Rollout") -> "Tensor":
        """0 for each completion, [B]."""
        import torch

        return torch.zeros(len(rollout))


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """A reward that teaches nothing."""
    return [Component(name="constant", build=lambda config, context: Constant(), summary="every completion scores 0")]
