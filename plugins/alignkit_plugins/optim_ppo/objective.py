"""PPO's objective: the op does the work."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from alignkit.ops import Ops
from alignkit_plugins.optim_ppo.config import PPOConfig


class PPOObjective:
    """Satisfies `Objective` and `FusedObjective` of `alignkit.training.objectives`; see `alignkit.ops.policy_loss`."""

    def __init__(self, config: PPOConfig) -> None:
        self.low = config.clip_range
        self.high = config.clip_range if config.clip_range_high is None else config.clip_range_high
        self.dual = config.dual_clip

    @property
    def fused_arguments(self) -> Mapping[str, Any]:
        """Of `alignkit.ops.fused_linear_policy_loss`."""
        return {"clip_low": self.low, "clip_high": self.high, "dual_clip": self.dual}

    def __call__(
        self, logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, row_N: Tensor, ops: Ops
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped loss per token, [N]."""
        loss_N, diagnostics = ops.policy_loss(logp_N, old_logp_N, advantages_N, self.low, self.high, self.dual)
        return loss_N, diagnostics
