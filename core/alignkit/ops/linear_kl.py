"""Full-distribution KL to a reference from hidden states and vocabulary projections."""

import torch
from torch import Tensor

from alignkit.batches import Head
from alignkit.ops.linear_logprob import project
from alignkit.ops.token_logprob import upcast


def linear_kl(h_NH: Tensor, head: Head, ref_h_NG: Tensor, ref_head: Head, temperature: float = 1.0) -> Tensor:
    """KL(pi || pi_ref) = sum_v pi(v) (log pi(v) - log pi_ref(v)) of the next token at each state, [N], float32.

    Both distributions at the sampling temperature. The gradient flows into `h_NH` and `head` only.
    """
    logp_NV = torch.log_softmax(upcast(project(h_NH, head)) / temperature, dim=-1)
    with torch.no_grad():
        ref_NV = torch.log_softmax(upcast(project(ref_h_NG, ref_head)) / temperature, dim=-1)
    return (logp_NV.exp() * (logp_NV - ref_NV)).sum(-1)
