"""The score-function gradient (Williams 1992)."""

import torch
from torch import Tensor

from alignkit.ops import Ops
from alignkit.training.objectives import log_ratio, ratio_diagnostics


class ReinforceObjective:
    """Satisfies `alignkit.training.objectives.Objective`."""

    def __call__(
        self, logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, row_N: Tensor, ops: Ops
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-A log pi per token, [N]; the ratio is only watched."""
        token_N = log_ratio(logp_N, old_logp_N)
        return -advantages_N * logp_N, ratio_diagnostics(token_N, torch.zeros_like(token_N))
