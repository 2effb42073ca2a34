"""The vocabulary ops with the signatures of `alignkit.ops`, on any implementation of the rows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alignkit.batches import Head
from alignkit.kl import KLTerm
from alignkit.ops import linear_kl as eager_linear_kl
from alignkit.ops import linear_logprob as eager_linear_logprob
from alignkit.ops.fused_linear_policy_loss import FIGURES
from alignkit_kernels import library

# Logits of a chunk where ids were left out: the eager op holds several copies of them.
KEPT_ELEMENTS = 2**22


class VocabularyOps:
    """`linear_logprob`, `linear_kl` and `fused_linear_policy_loss` on one implementation of the rows.

    Batches of at most `eager_below` logits whose gradient is wanted are left to the eager reference where the logits
    would be computed again: so few cost little to keep.
    """

    def __init__(self, rows: str, eager_below: int = 0) -> None:
        self.rows = rows
        self.eager_below = eager_below

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        """By op."""
        return {
            "linear_logprob": self.linear_logprob,
            "linear_kl": self.linear_kl,
            "fused_linear_policy_loss": self.fused_linear_policy_loss,
        }

    def linear_logprob(
        self,
        h_NH: Tensor,
        head: Head,
        targets_N: Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
        kept_NK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `alignkit.ops.linear_logprob`. The logits are computed again in the backward pass."""
        if self._few(h_NH, head):
            return eager_linear_logprob(h_NH, head, targets_N, temperature, with_entropy, kept_NK)
        if kept_NK is not None:
            return among_kept(h_NH, head, targets_N, temperature, with_entropy, kept_NK)
        weight_VH, bias_V, softcap, scale = head
        logp_N, entropy_N, _ = library.linear_logprob(
            self.rows, h_NH.to(weight_VH.dtype), weight_VH, bias_V, targets_N, temperature, scale, softcap, with_entropy
        )
        return logp_N, entropy_N if with_entropy else torch.zeros_like(logp_N)

    def _few(self, h_NH: Tensor, head: Head) -> bool:
        learns = torch.is_grad_enabled() and (h_NH.requires_grad or head.weight_VH.requires_grad)
        return learns and len(h_NH) * len(head.weight_VH) <= self.eager_below

    def linear_kl(self, h_NH: Tensor, head: Head, ref_h_NG: Tensor, ref_head: Head, temperature: float = 1.0) -> Tensor:
        """See `alignkit.ops.linear_kl`."""
        if self._few(h_NH, head):
            return eager_linear_kl(h_NH, head, ref_h_NG, ref_head, temperature)
        weight_VH, bias_V, softcap, scale = head
        ref_weight_VG, ref_bias_V, ref_softcap, ref_scale = _detached(ref_head)
        ref_h_NG = ref_h_NG.detach().to(ref_weight_VG.dtype)
        kl_N: Tensor
        kl_N, _ = library.linear_kl(
            self.rows, h_NH.to(weight_VH.dtype), weight_VH, bias_V, ref_h_NG, ref_weight_VG, ref_bias_V,
            temperature, scale, softcap, ref_scale, ref_softcap,
        )  # fmt: skip
        return kl_N

    def fused_linear_policy_loss(
        self,
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
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `alignkit.ops.fused_linear_policy_loss`. The gradient is made in the forward pass."""
        weight_VH, bias_V, softcap, scale = head
        h_NH = h_NH.to(weight_VH.dtype)
        full = reference if kl is not None and kl.estimator == "full" else None
        ref_h_NG, ref_head = (None, Head(weight_VH)) if full is None else full
        ref_head = _detached(ref_head)
        if ref_h_NG is not None:
            ref_h_NG = ref_h_NG.detach().to(ref_head.weight_VH.dtype)
        needed = [x is not None and x.requires_grad and torch.is_grad_enabled() for x in (h_NH, weight_VH, bias_V)]
        loss, figures_FN, *_ = library.linear_policy_loss(
            self.rows, h_NH, weight_VH, bias_V, targets_N, advantages_N, weights_N, old_logp_N,
            None if kl is None or full is not None else ref_logp_N,
            ref_h_NG, None if full is None else ref_head.weight_VH, None if full is None else ref_head.bias_V,
            temperature, scale, softcap, ref_head.scale, ref_head.softcap, clip_low, clip_high, dual_clip, entropy_coef,
            0.0 if kl is None else kl.coef, None if kl is None else kl.estimator,
            "estimator" if kl is None else kl.gradient, library.flags(*needed),
        )  # fmt: skip
        return loss, dict(zip(FIGURES, figures_FN.detach().unbind(), strict=True))


def among_kept(
    h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float, with_entropy: bool, kept_NK: Tensor
) -> tuple[Tensor, Tensor]:
    """The eager op on a chunk of tokens at a time; each chunk's logits are computed again in the backward pass."""
    size = max(1, KEPT_ELEMENTS // len(head.weight_VH))
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    parts = [
        checkpoint(eager_linear_logprob, h, head, y, temperature, with_entropy, k, **options)
        for h, y, k in zip(*(torch.split(x, size) for x in (h_NH, targets_N, kept_NK)), strict=True)
    ]
    return torch.cat([logp for logp, _ in parts]), torch.cat([entropy for _, entropy in parts])


def _detached(head: Head) -> Head:
    bias_V = None if head.bias_V is None else head.bias_V.detach()
    return head._replace(weight_VH=head.weight_VH.detach(), bias_V=bias_V)
