"""The kernel component `triton`."""

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from alignkit_kernels.vocabulary import VocabularyOps

OLDEST_NVIDIA = 8


class TritonKernel:
    """Satisfies `alignkit.protocols.Kernel`."""

    def unavailable(self, device: torch.device) -> str | None:
        """Needs Triton and a GPU, or Triton's interpreter on a CPU (slow: for tests)."""
        if find_spec("triton") is None:
            return "the package triton is not installed"
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if device.type != "cuda" and not (device.type == "cpu" and interpreted):
            return f"it needs a GPU that Triton compiles for, and the device is {device.type}"
        if device.type == "cuda" and not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
            return "Triton needs a C compiler, such as gcc, and there is none"
        if device.type == "cuda" and torch.cuda.is_available() and torch.version.hip is None:
            major, minor = torch.cuda.get_device_capability(device)
            if major < OLDEST_NVIDIA:
                return (
                    f"it is for NVIDIA GPUs from compute capability {OLDEST_NVIDIA}.0 on, and this is {major}.{minor}"
                )
        return None

    def preference(self, device: torch.device) -> int:
        """The first choice on a GPU."""
        return 2 if device.type == "cuda" else 0

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        """All ops."""
        return {
            **VocabularyOps("triton").implementations(),
            "token_logprob": token_logprob,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "pairwise_loss": pairwise_loss,
            "gae": gae,
        }


def token_logprob(logits_NV: Tensor, targets_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """See `alignkit.ops.token_logprob`."""
    from alignkit_kernels import triton_ops

    logp_N, entropy_N, saved_N2 = triton_ops.token_logprob(logits_NV, targets_N, temperature)
    return logp_N, entropy_N, saved_N2.detach().sum(-1)


def policy_loss(
    logp_N: Tensor,
    old_logp_N: Tensor,
    advantages_N: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """See `alignkit.ops.policy_loss`; the gradient flows into `logp_N` only."""
    from alignkit_kernels import triton_ops

    shape, tensors = _flat(logp_N, old_logp_N, advantages_N)
    found = triton_ops.policy_loss(*tensors, clip_low, clip_high, dual_clip)
    loss_N, ratio_N, clipped_N, kl_N, _ = (x.view(shape) for x in found)
    return loss_N, {"ratio": ratio_N.detach(), "clipped": clipped_N.detach(), "approx_kl": kl_N.detach()}


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float | None) -> Tensor:
    """See `alignkit.ops.value_loss`; the gradient flows into `values_N` only."""
    from alignkit_kernels import triton_ops

    shape, tensors = _flat(values_N, old_values_N, returns_N)
    loss_N: Tensor = triton_ops.value_loss(*tensors, clip)[0].view(shape)
    return loss_N


def pairwise_loss(chosen_P: Tensor, rejected_P: Tensor, p_P: Tensor, margin_P: Tensor, weight_P: Tensor) -> Tensor:
    """See `alignkit.ops.pairwise_loss`; the gradient flows into both scores."""
    from alignkit_kernels import triton_ops

    shape, tensors = _flat(chosen_P, rejected_P, p_P, margin_P, weight_P)
    loss_P: Tensor = triton_ops.pairwise_loss(*tensors)[0].view(shape)
    return loss_P


def _flat(*tensors: Tensor) -> tuple[torch.Size, list[Tensor]]:
    """One shape, and each tensor in it as one row: the programs read them side by side."""
    same: tuple[Tensor, ...] = torch.broadcast_tensors(*tensors)  # type: ignore[no-untyped-call]
    return same[0].shape, [x.reshape(-1) for x in same]


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """See `alignkit.ops.gae`. Rollouts wait in main memory: there the round trip to the GPU is part of the op."""
    from alignkit_kernels import triton_ops

    home = rewards_BT.device
    inputs = (rewards_BT, values_BT, mask_BT)
    if home.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        inputs = (rewards_BT.cuda(), values_BT.cuda(), mask_BT.cuda())
    advantages_BT, returns_BT = triton_ops.gae(*inputs, gamma, lam)
    return advantages_BT.to(home), returns_BT.to(home)
