"""From scores and KL to token rewards. A pure function."""

from torch import Tensor


def token_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """r_t = -beta KL_t, plus the score at the last position of the mask (Ziegler et al. 2019, equation 2); [B, T].

    The last position is the last True of `mask_BT`: the stop token, the token at the length limit, or the position
    behind the stop token where the mask has one.
    """
    last_B1 = mask_BT.long().sum(-1, keepdim=True) - 1
    return (-kl_coef * kl_BT * mask_BT).scatter_add(-1, last_B1, scores_B[:, None])
