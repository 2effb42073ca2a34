"""KTO's loss, its reference point, and the accuracy of rewards on completions that are labelled, not compared."""

import torch
from torch import Tensor


def kto_loss(
    ratio_B: Tensor,
    reference_point: Tensor,
    good_B: Tensor,
    bad_B: Tensor,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:
    """lambda_y - v of each completion, [B] (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8).

    good lambda_D (1 - sigmoid(beta (r - z0))) + bad lambda_U (1 - sigmoid(beta (z0 - r))), with the log-ratio
    r = log pi/pi_ref of the whole completion. `good` and `bad` are the weights with which the completion counts as
    each; usually one of them is 0.
    """
    x_B = beta * (ratio_B - reference_point)
    # 1 - sigmoid(x) = sigmoid(-x), without its loss of digits.
    return good_B * desirable_weight * torch.sigmoid(-x_B) + bad_B * undesirable_weight * torch.sigmoid(x_B)


@torch.no_grad()
def mean_reference_point(ratio_M: Tensor, weight_M: Tensor) -> Tensor:
    """z0 = max(0, weighted mean of log pi/pi_ref over mismatched prompts and completions), a scalar.

    The paper's estimate of KL(pi || pi_ref); negative estimates, which a KL cannot be, become 0. No gradient flows
    through it.
    """
    return ((ratio_M * weight_M).sum() / weight_M.sum()).clamp(min=0)


def ranked_share(reward_B: Tensor, good_B: Tensor, bad_B: Tensor) -> float:
    """Probability that a good completion's reward is higher than a bad one's, equal ones half; NaN without either.

    Over all good x bad combinations, by weight: the area under the ROC curve.
    """
    total = float(good_B.sum()) * float(bad_B.sum())
    if not total:
        return float("nan")
    reward_B, good_B, bad_B = (x.double().cpu() for x in (reward_B, good_B, bad_B))
    ordered_B, order_B = torch.sort(reward_B)
    below_B = torch.nn.functional.pad(bad_B[order_B].cumsum(0), (1, 0))
    lower_B, upper_B = (below_B[torch.searchsorted(ordered_B, reward_B, right=right)] for right in (False, True))
    return float((good_B * (lower_B + upper_B) / 2).sum()) / total
