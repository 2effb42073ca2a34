"""PPO's clipped policy objective (Schulman et al. 2017, arXiv 1707.06347, equation 7), with the usual extensions."""

import torch
from torch import Tensor

from alignkit.kl import MAX_LOG_RATIO


def policy_loss(
    logp_N: Tensor,
    old_logp_N: Tensor,
    advantages_N: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)) per token, [N], with rho = exp(logp - old_logp).

    Unequal ranges are DAPO's clip-higher (Yu et al. 2025, arXiv 2503.14476). `dual_clip` c > 1: where A < 0 the loss is
    at most -c A (Ye et al. 2020, arXiv 1912.09729, equation 5), so that a token which became likely in the meantime
    cannot blow up the step. Also returns the diagnostics of `ratio_diagnostics`.
    """
    log_ratio_N = (logp_N - old_logp_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    unclipped_N = -advantages_N * ratio_N
    clipped_N = -advantages_N * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    loss_N = torch.maximum(unclipped_N, clipped_N)
    if dual_clip is not None:
        loss_N = torch.where(advantages_N < 0, torch.minimum(loss_N, -dual_clip * advantages_N), loss_N)
    return loss_N, ratio_diagnostics(log_ratio_N, loss_N != unclipped_N)


@torch.no_grad()
def ratio_diagnostics(log_ratio_N: Tensor, clipped_N: Tensor) -> dict[str, Tensor]:
    """Per-token `ratio`, `clipped` (1 where clipping took the gradient away) and `approx_kl`, each [N].

    `approx_kl` = rho - 1 - log rho is an unbiased estimate of KL(old || new) (Schulman 2020, k3).
    """
    ratio_N = log_ratio_N.exp()
    return {"ratio": ratio_N, "clipped": clipped_N.float(), "approx_kl": ratio_N - 1 - log_ratio_N}
