"""ORPO's two terms (Hong et al. 2024, arXiv 2403.07691), on log-probs averaged over tokens."""

import torch
from torch import Tensor

# Mean log-probs above this count as it: P = 1 would have infinite odds.
_LARGEST = -1e-6


def log_odds(mean_logp_B: Tensor) -> Tensor:
    """log [P / (1 - P)] with log P = 1/m sum_t log pi(y_t | x, y_<t) (equations 3 and 4), [B].

    expm1 keeps the digits of 1 - P where P is close to 1.
    """
    logp_B = mean_logp_B.clamp(max=_LARGEST)
    return logp_B - torch.log(-torch.expm1(logp_B))


def sft_loss(mean_logp_B: Tensor, chosen_P: Tensor, rejected_P: Tensor, p_P: Tensor, weight_P: Tensor) -> Tensor:
    """-w [p log P(chosen) + (1 - p) log P(rejected)] (equation 2; the soft label p is ours), [P]."""
    return -weight_P * (p_P * mean_logp_B[chosen_P] + (1 - p_P) * mean_logp_B[rejected_P])
