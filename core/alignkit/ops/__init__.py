"""The hot path: each op's signature with its eager reference, and the dispatch that picks an implementation."""

from alignkit.ops.dispatch import OPS, Ops, choose_ops
from alignkit.ops.gae import gae
from alignkit.ops.linear_kl import linear_kl
from alignkit.ops.linear_logprob import linear_logprob
from alignkit.ops.pairwise_loss import pairwise_loss
from alignkit.ops.policy_loss import policy_loss
from alignkit.ops.value_loss import value_loss

__all__ = [
    "OPS",
    "Ops",
    "choose_ops",
    "gae",
    "linear_kl",
    "linear_logprob",
    "pairwise_loss",
    "policy_loss",
    "value_loss",
]
