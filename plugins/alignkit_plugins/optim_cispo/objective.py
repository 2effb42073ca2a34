"""CISPO's objective (MiniMax-M1, arXiv 2506.13585, equations 4 and 5)."""

from torch import Tensor

from alignkit.ops import Ops
from alignkit.training.objectives import log_ratio, ratio_diagnostics
from alignkit_plugins.optim_cispo.config import CISPOConfig


class CISPOObjective:
    """Satisfies `alignkit.training.objectives.Objective`."""

    def __init__(self, config: CISPOConfig) -> None:
        self.low = 0.0 if config.clip_range is None else 1 - config.clip_range
        self.high = 1 + config.clip_range_high

    def __call__(
        self, logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, row_N: Tensor, ops: Ops
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-sg[clip(rho, low, high)] A log pi per token, [N]: what PPO's clip would silence still teaches."""
        token_N = log_ratio(logp_N, old_logp_N)
        ratio_N = token_N.detach().exp()
        weight_N = ratio_N.clamp(self.low, self.high)
        return -weight_N * advantages_N * logp_N, ratio_diagnostics(token_N, weight_N != ratio_N)
