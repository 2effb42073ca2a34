"""Log-prob and entropy of target tokens from hidden states and the vocabulary projection."""

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.batches import Head
from alignkit.ops.token_logprob import token_logprob, upcast


def linear_logprob(
    h_NH: Tensor,
    head: Head,
    targets_N: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    kept_NK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log softmax(z / temperature)[target] and the entropy of softmax(z / temperature), both [N], float32.

    z = softcap(scale * (h W^T + b)). `temperature` > 0 is the sampling temperature: PPO's ratio compares the
    distributions that were sampled from (Ziegler et al. 2019 score at the temperature they sample with).
    Without `with_entropy` the entropy is a tensor of zeros, which saves a pass over [N, V].

    `kept_NK`: ids that top-k or top-p left when each token was drawn, padded with -1. Both figures are then those of
    the distribution over these ids alone, so that ratio and KL stay those of what was sampled.
    """
    logits_NV = upcast(project(h_NH, head))
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    if kept_NK is not None:
        return _among_kept(logits_NV, targets_N, kept_NK)
    if with_entropy:
        return token_logprob(logits_NV, targets_N)[:2]
    logp_N = -F.cross_entropy(logits_NV, targets_N, reduction="none")
    return logp_N, torch.zeros_like(logp_N)


def _among_kept(logits_NV: Tensor, targets_N: Tensor, kept_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of the distribution over the kept ids. A target outside them has log-prob -inf."""
    real_NK = kept_NK >= 0
    logits_NK = logits_NV.gather(-1, kept_NK.clamp(min=0)).masked_fill(~real_NK, float("-inf"))
    logp_NK = torch.log_softmax(logits_NK, dim=-1)
    logp_N = logp_NK.masked_fill(kept_NK != targets_N[:, None], float("-inf")).logsumexp(-1)
    finite_NK = logp_NK.masked_fill(~real_NK, 0.0)
    return logp_N, -(finite_NK.exp() * finite_NK * real_NK).sum(-1)


def project(h_NH: Tensor, head: Head) -> Tensor:
    """Logits [N, V] in the dtype of the projection, also under autocast: bfloat16 logits lose 2e-2 of a log-prob."""
    with torch.autocast(h_NH.device.type, enabled=False):
        logits_NV = F.linear(h_NH.to(head.weight_VH.dtype), head.weight_VH, head.bias_V)
    if head.scale != 1.0:
        logits_NV = logits_NV * head.scale
    if head.softcap is not None:
        logits_NV = head.softcap * torch.tanh(logits_NV / head.softcap)
    return logits_NV
