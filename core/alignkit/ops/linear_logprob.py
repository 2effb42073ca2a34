"""Log-prob and entropy of target tokens from hidden states and the vocabulary projection."""

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.batches import Head


def linear_logprob(
    h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log softmax(z / temperature)[target] and the entropy of softmax(z / temperature), both [N], float32.

    z = softcap(scale * (h W^T + b)). `temperature` > 0 is the sampling temperature: PPO's ratio compares the
    distributions that were sampled from (Ziegler et al. 2019 score at the temperature they sample with).
    Without `with_entropy` the entropy is a tensor of zeros, which saves a pass over [N, V].
    """
    logits_NV = project(h_NH, head).float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    logp_NV = torch.log_softmax(logits_NV, dim=-1)
    logp_N = -F.nll_loss(logp_NV, targets_N, reduction="none")  # its backward is cheaper than that of gather
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1) if with_entropy else torch.zeros_like(logp_N)
    return logp_N, entropy_N


def project(h_NH: Tensor, head: Head) -> Tensor:
    """Logits [N, V] in the dtype of the projection, also under autocast: bfloat16 logits lose 2e-2 of a log-prob."""
    with torch.autocast(h_NH.device.type, enabled=False):
        logits_NV = F.linear(h_NH.to(head.weight_VH.dtype), head.weight_VH, head.bias_V)
    if head.scale != 1.0:
        logits_NV = logits_NV * head.scale
    if head.softcap is not None:
        logits_NV = head.softcap * torch.tanh(logits_NV / head.softcap)
    return logits_NV
