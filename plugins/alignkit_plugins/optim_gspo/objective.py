"""GSPO's objective (Zheng et al. 2025, arXiv 2507.18071, equations 5 and 7, in the token form of equation 14)."""

import torch
from torch import Tensor

from alignkit.ops import Ops
from alignkit.training.objectives import log_ratio, ratio_diagnostics, sequence_mean
from alignkit_plugins.optim_gspo.config import GSPOConfig


class GSPOObjective:
    """Satisfies `alignkit.training.objectives.Objective`."""

    def __init__(self, config: GSPOConfig) -> None:
        self.low = config.clip_range
        self.high = config.clip_range if config.clip_range_high is None else config.clip_range_high
        self.normalise = config.length_normalise

    def __call__(
        self, logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, row_N: Tensor, ops: Ops
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """max(-A s, -A clip(s, 1 - low, 1 + high)) of each token, [N].

        s is its completion's ratio exp(mean_t log pi/pi_old) (the sum without length normalisation). Its gradient is
        written on the completion's tokens, each with its own advantage: s sg[pi_old] pi / sg[pi] of the paper.
        """
        token_N = log_ratio(logp_N, old_logp_N)
        sequence_N = log_ratio(sequence_mean(token_N, row_N, self.normalise).detach(), torch.zeros_like(logp_N))
        ratio_N = torch.exp(sequence_N) * torch.exp(logp_N - logp_N.detach())
        unclipped_N = -advantages_N * ratio_N
        loss_N = torch.maximum(unclipped_N, -advantages_N * ratio_N.clamp(1 - self.low, 1 + self.high))
        return loss_N, ratio_diagnostics(token_N, loss_N != unclipped_N)
