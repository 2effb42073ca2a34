"""The policy's whole loss from hidden states and the vocabulary projection, in one op."""

from collections.abc import Callable

import torch
from torch import Tensor

from alignkit.batches import Head
from alignkit.kl import KLTerm, kl_loss
from alignkit.ops.linear_kl import linear_kl
from alignkit.ops.linear_logprob import linear_logprob
from alignkit.ops.policy_loss import policy_loss, ratio_diagnostics

# Per token, detached: what the loss is made of, and how far the policy has moved.
FIGURES = ("logp", "entropy", "policy_loss", "kl", "ratio", "clipped", "approx_kl")


def fused_linear_policy_loss(
    h_NH: Tensor,
    head: Head,
    targets_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    old_logp_N: Tensor | None = None,
    temperature: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    entropy_coef: float = 0.0,
    kl: KLTerm | None = None,
    ref_logp_N: Tensor | None = None,
    reference: tuple[Tensor, Head] | None = None,
    linear_logprob: Callable[..., tuple[Tensor, Tensor]] = linear_logprob,
    linear_kl: Callable[..., Tensor] = linear_kl,
    policy_loss: Callable[..., tuple[Tensor, dict[str, Tensor]]] = policy_loss,
) -> tuple[Tensor, dict[str, Tensor]]:
    """sum_n w_n [pg_n + coef kl_n - entropy_coef H_n], a float32 scalar, and `FIGURES` of each token, [N], detached.

    pg is `policy_loss` (the clipped objective), or without `old_logp_N` the plain -A log pi, which with A = 1 is
    cross-entropy. The KL term is `kl_loss` against `ref_logp_N` for k1, k2 and k3, and `linear_kl` against the hidden
    states and projection in `reference` for "full".

    `weights_N` >= 0 is each token's share of the loss: for a mean over tokens the mask divided by the number of tokens
    in the whole batch, as a tensor, so that no number has to come back from the device. A token of weight 0 has figures
    of 0, and an implementation may leave it out before any matrix product. Without `old_logp_N` and without an entropy
    bonus nobody asks for the entropy, and it is 0.

    `linear_logprob`, `linear_kl` and `policy_loss` are the ops this reference is made of.

    One op because the gradient of each token's loss with respect to its logits depends on that token alone, so an
    implementation can make it in the forward pass, a chunk of tokens at a time: three matrix products instead of the
    four that computing the logits again takes.
    """
    with_entropy = old_logp_N is not None or entropy_coef != 0
    logp_N, entropy_N = linear_logprob(h_NH, head, targets_N, temperature, with_entropy=with_entropy)
    if old_logp_N is None:
        policy_N, diagnostics = -advantages_N * logp_N, ratio_diagnostics(logp_N * 0, logp_N * 0)
    else:
        policy_N, diagnostics = policy_loss(logp_N, old_logp_N, advantages_N, clip_low, clip_high, dual_clip)
    loss_N = policy_N - entropy_coef * entropy_N if entropy_coef else policy_N
    kl_N = torch.zeros_like(logp_N)
    if kl is not None and kl.estimator == "full":
        assert reference is not None
        kl_N = linear_kl(h_NH, head, *reference, temperature)
    elif kl is not None:
        assert ref_logp_N is not None
        kl_N = kl_loss(logp_N, logp_N.detach() if old_logp_N is None else old_logp_N, ref_logp_N, kl)
    if kl is not None:
        loss_N = loss_N + kl.coef * kl_N
    figures = {"logp": logp_N, "entropy": entropy_N, "policy_loss": policy_N, "kl": kl_N, **diagnostics}
    counted_N = weights_N != 0
    loss = (loss_N * weights_N).sum()
    return loss, {name: torch.where(counted_N, x.detach(), 0.0) for name, x in figures.items()}
