"""The hot path: each op's signature with its eager reference, and the dispatch that picks an implementation."""

from alignkit.ops.dispatch import EAGER, OPS, Ops, build_kernel, choose_ops, usable_kernels
from alignkit.ops.fused_linear_policy_loss import fused_linear_policy_loss
from alignkit.ops.gae import gae
from alignkit.ops.linear_kl import linear_kl
from alignkit.ops.linear_logprob import linear_logprob
from alignkit.ops.pairwise_loss import pairwise_loss
from alignkit.ops.policy_loss import policy_loss
from alignkit.ops.token_logprob import token_logprob
from alignkit.ops.value_loss import value_loss

__all__ = [
    "EAGER",
    "OPS",
    "Ops",
    "build_kernel",
    "choose_ops",
    "fused_linear_policy_loss",
    "gae",
    "linear_kl",
    "linear_logprob",
    "pairwise_loss",
    "policy_loss",
    "token_logprob",
    "usable_kernels",
    "value_loss",
]
