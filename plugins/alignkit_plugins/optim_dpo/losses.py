"""Losses on the log-ratio difference of a pair, h = log pi/pi_ref (chosen) - log pi/pi_ref (rejected).

All are symmetric: with the two sides swapped and 1 - p for p they stay as they are. DPO's own, with sigmoid, is
`alignkit.ops.pairwise_loss` on the implicit rewards beta log pi/pi_ref (Rafailov et al. 2023, equation 7).
"""

import torch.nn.functional as F
from torch import Tensor


def ipo_loss(h_P: Tensor, p_P: Tensor, margin_P: Tensor, weight_P: Tensor, beta: float) -> Tensor:
    """w [p (h - t)^2 + (1 - p) (h + t)^2] with t = (1/2 + m) / beta; [P].

    With p = 1 and m = 0 this is (h - 1 / (2 beta))^2, equation 17 of Azar et al. 2023 (arXiv 2310.12036); `beta` is
    their tau. In units of reward, beta h is to be 1/2 + m, and not more: where sigmoid pushes on for ever, IPO stops.
    """
    target_P = (0.5 + margin_P) / beta
    return weight_P * (p_P * (h_P - target_P).square() + (1 - p_P) * (h_P + target_P).square())


def hinge_loss(h_P: Tensor, p_P: Tensor, margin_P: Tensor, weight_P: Tensor, beta: float) -> Tensor:
    """w [p max(0, 1 + m - beta h) + (1 - p) max(0, 1 + m + beta h)]; [P].

    The ranking loss of SLiC-HF (Zhao et al. 2023, arXiv 2305.10425) on log-ratios, as in RSO (Liu et al. 2023, arXiv
    2309.06657, equation 9).
    """
    reward_P = beta * h_P
    return weight_P * (p_P * F.relu(1 + margin_P - reward_P) + (1 - p_P) * F.relu(1 + margin_P + reward_P))


def smoothed(p_P: Tensor, share: float) -> Tensor:
    """p if a `share` e of all labels is wrong: (1 - e) p + e (1 - p) (conservative DPO, Mitchell 2023)."""
    return (1 - share) * p_P + share * (1 - p_P)
