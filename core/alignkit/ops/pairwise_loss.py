"""Bradley-Terry loss of a preference pair (Bradley and Terry 1952; Ouyang et al. 2022, equation 1)."""

import torch.nn.functional as F
from torch import Tensor


def pairwise_loss(chosen_P: Tensor, rejected_P: Tensor, p_P: Tensor, margin_P: Tensor, weight_P: Tensor) -> Tensor:
    """-w [p log sigmoid(D - m) + (1 - p) log sigmoid(-D - m)], D = chosen - rejected; [P].

    `p` is the probability that `chosen` is better (soft label, 0.5 a tie). The margin `m` >= 0 (Llama 2, Touvron et
    al. 2023, equation 2) is asked of whichever side is preferred, so it enters both terms with the same sign.
    """
    difference_P = chosen_P - rejected_P
    win_P = F.logsigmoid(difference_P - margin_P)
    lose_P = F.logsigmoid(-difference_P - margin_P)
    return -weight_P * (p_P * win_P + (1 - p_P) * lose_P)
