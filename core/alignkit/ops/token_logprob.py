"""Log-prob and entropy of target tokens from logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Float32 at least: a softmax over a vocabulary in 16 bits loses the small probabilities."""
    return x if x.dtype == torch.float64 else x.float()


def token_logprob(logits_NV: Tensor, targets_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Of softmax(z / temperature): log-prob of the target, entropy and log-sum-exp of z / temperature; [N], float32.

    With l = z / temperature - lse and p = exp l, the entropy is H = -sum p l, and the gradients are
    d logp / dz = (1[target] - p) / temperature and dH / dz = -p (l + H) / temperature. The log-sum-exp has none.
    Inputs in float64 stay so, in all ops: the references are their own truth for tests.
    """
    scaled_NV = upcast(logits_NV) / temperature if temperature != 1.0 else upcast(logits_NV)
    logp_NV = torch.log_softmax(scaled_NV, dim=-1)
    logp_N = -F.nll_loss(logp_NV, targets_N, reduction="none")  # its backward is cheaper than that of gather
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    with torch.no_grad():
        lse_N = scaled_NV.gather(-1, targets_N[:, None])[:, 0] - logp_N
    return logp_N, entropy_N, lse_N
