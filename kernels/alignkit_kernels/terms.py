"""The policy loss of each token from its log-prob, with its slope written out: no graph is kept inside an op."""

from typing import NamedTuple

import torch
from torch import Tensor

from alignkit.kl import MAX_LOG_RATIO, kl_estimate
from alignkit.ops.policy_loss import policy_loss, ratio_diagnostics


class Objective(NamedTuple):
    """The constants of `alignkit.ops.fused_linear_policy_loss`."""

    clip_low: float
    clip_high: float
    dual_clip: float | None
    entropy_coef: float
    kl_coef: float
    kl_estimator: str | None
    kl_gradient: str


class Terms(NamedTuple):
    """Per token, [C]: the policy's term, the sampled KL term (None without one), d(pg + coef KL)/dlogp, figures."""

    policy_C: Tensor
    kl_C: Tensor | None
    slope_C: Tensor
    diagnostics: dict[str, Tensor]


def token_terms(
    logp_C: Tensor, advantages_C: Tensor, old_logp_C: Tensor | None, ref_logp_C: Tensor | None, objective: Objective
) -> Terms:
    """What `policy_loss` and `kl_loss` give, and the gradient that autograd would.

    d pg/dlogp = -A rho where the objective is not clipped and |log rho| < 20, else 0.
    """
    if old_logp_C is None:
        ratio_C = torch.ones_like(logp_C)
        diagnostics = ratio_diagnostics(torch.zeros_like(logp_C), torch.zeros_like(logp_C))
        policy_C, slope_C = -advantages_C * logp_C, -advantages_C
    else:
        policy_C, diagnostics = policy_loss(
            logp_C, old_logp_C, advantages_C, objective.clip_low, objective.clip_high, objective.dual_clip
        )
        ratio_C = diagnostics["ratio"]
        moves_C = ((logp_C - old_logp_C).abs() < MAX_LOG_RATIO) & (diagnostics["clipped"] == 0)
        slope_C = torch.where(moves_C, -advantages_C * ratio_C, 0.0)
    if objective.kl_estimator is None or ref_logp_C is None:
        return Terms(policy_C, None, slope_C, diagnostics)
    kl_C = kl_estimate(logp_C, ref_logp_C, objective.kl_estimator)  # type: ignore[arg-type]
    slope_C = slope_C + objective.kl_coef * _kl_slope(logp_C - ref_logp_C, ratio_C, objective)
    return Terms(policy_C, kl_C, slope_C, diagnostics)


def _kl_slope(d_C: Tensor, ratio_C: Tensor, objective: Objective) -> Tensor:
    """d KL/dlogp: rho d where corrected, else the estimator's own derivative."""
    if objective.kl_gradient == "corrected":
        return ratio_C * d_C
    if objective.kl_estimator == "k1":
        return torch.ones_like(d_C)
    if objective.kl_estimator == "k2":
        return d_C
    return 1 - torch.where(-d_C < MAX_LOG_RATIO, (-d_C).clamp(max=MAX_LOG_RATIO).exp(), 0.0)
