"""PPO's clipped policy objective (Schulman et al. 2017, arXiv 1707.06347, equation 7)."""

import torch
from torch import Tensor

# exp(20) is beyond any useful ratio and still finite in float32 after multiplication with an advantage.
MAX_LOG_RATIO = 20.0


def policy_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)) per token, [N], with rho = exp(logp - old_logp).

    Also returns per-token diagnostics [N]: `ratio`, `clipped` (1 where the clipped branch was taken) and `approx_kl`
    = rho - 1 - log rho, an unbiased estimate of KL(old || new) (Schulman 2020, "Approximating KL divergence", k3).
    """
    log_ratio_N = (logp_N - old_logp_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    unclipped_N = -advantages_N * ratio_N
    clipped_N = -advantages_N * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    with torch.no_grad():
        diagnostics = {
            "ratio": ratio_N,
            "clipped": (clipped_N > unclipped_N).float(),
            "approx_kl": ratio_N - 1 - log_ratio_N,
        }
    return torch.maximum(unclipped_N, clipped_N), diagnostics
