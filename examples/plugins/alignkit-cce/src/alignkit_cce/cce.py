"""`linear_logprob` by the library cut-cross-entropy (Wijmans et al. 2024, arXiv 2411.09009).

The library computes -log softmax(softcap(e c^T))[target]. With logits z = softcap(scale * h W^T) at temperature T,

    z / T = (cap / T) tanh(((scale / T) h W^T) / (cap / T)),

so scale and temperature go into e = (scale / T) h and into the soft cap, and its loss is the log-prob wanted.

It knows no entropy, no bias and no set of ids that top-k or top-p left; those calls go to the eager reference, and each
reason is logged once. It has two implementations: `cce`, in Triton, is taken for 16 bits on CUDA, as its backward pass
accepts nothing wider; `torch_compile` for float32.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from alignkit.batches import Head
from alignkit.ops import linear_logprob as eager_linear_logprob
from cut_cross_entropy import linear_cross_entropy
from torch import Tensor

logger = logging.getLogger("alignkit")

HALF = (torch.bfloat16, torch.float16)
# Triton's matrix products of bfloat16 need an Ampere GPU.
AMPERE = (8, 0)
# torch.compile makes a variant for each pattern of gradients and soft cap, and the library forbids it to go on without
# one; torch's own limit of 8 is met by a process that trains several models.
VARIANTS = 64


class CutCrossEntropy:
    """Satisfies `alignkit.protocols.Kernel`."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def unavailable(self, device: torch.device) -> str | None:
        """A GPU must be new enough for Triton's bfloat16; on a CPU torch.compile needs a compiler for C++."""
        if device.type == "cuda":
            if not torch.cuda.is_available():
                return "torch finds no CUDA device"
            found = torch.cuda.get_device_capability(device)
            return None if found >= AMPERE else f"cut-cross-entropy needs compute capability 8.0, this GPU has {found}"
        if device.type == "cpu":
            return _compiler_missing()
        return f"cut-cross-entropy has not been tried on {device.type}"

    def preference(self, device: torch.device) -> int:
        """Only when named."""
        return 0

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        """By op."""
        return {"linear_logprob": self.linear_logprob}

    def linear_logprob(
        self,
        h_NH: Tensor,
        head: Head,
        targets_N: Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
        kept_NK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `alignkit.ops.linear_logprob`."""
        beyond = _beyond(h_NH, head, with_entropy, kept_NK)
        if beyond is not None:
            self._report(beyond)
            return eager_linear_logprob(h_NH, head, targets_N, temperature, with_entropy, kept_NK)
        logp_N = _logprob(h_NH, head, targets_N, temperature)
        return logp_N, torch.zeros_like(logp_N)

    def _report(self, beyond: str) -> None:
        if beyond not in self._reported:
            self._reported.add(beyond)
            logger.info("kernel cce: %s goes to the eager reference", beyond)


def _beyond(h_NH: Tensor, head: Head, with_entropy: bool, kept_NK: Tensor | None) -> str | None:
    """What the library cannot do of a call, or None."""
    dtype = head.weight_VH.dtype
    if with_entropy:
        return "a log-prob with its entropy"
    if kept_NK is not None:
        return "the distribution over the ids that top-k or top-p left"
    if head.bias_V is not None:
        return "a projection with a bias"
    if len(h_NH) < 2:  # torch.compile would make variants for 0 and 1
        return "a batch of fewer than two tokens"
    if dtype != torch.float32 and not (h_NH.is_cuda and dtype in HALF):
        return f"a projection in {dtype} on {h_NH.device.type}"
    return None


def _logprob(h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float) -> Tensor:
    """log softmax(z / temperature)[target], [N], float32."""
    weight_VH = head.weight_VH
    learns = torch.is_grad_enabled() and (h_NH.requires_grad or weight_VH.requires_grad)
    if not learns:  # one variant for all calls that ask for no gradient
        h_NH, weight_VH = h_NH.detach(), weight_VH.detach()
    with torch.set_grad_enabled(learns), torch.autocast(h_NH.device.type, enabled=False):
        e_NH = h_NH.to(weight_VH.dtype)
        if head.scale != temperature:
            e_NH = e_NH * (head.scale / temperature)
        with torch._dynamo.config.patch(recompile_limit=VARIANTS):
            loss_N: Tensor = linear_cross_entropy(
                e_NH,
                weight_VH,
                targets_N,
                softcap=None if head.softcap is None else head.softcap / temperature,
                reduction="none",
                filter_eps=None,  # by default it leaves out small gradients, which the eager reference has
                impl="cce" if weight_VH.dtype in HALF else "torch_compile",
            )
        return -loss_N.float()


def _compiler_missing() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "torch.compile needs a C++ compiler, such as g++, and there is none"
    return None
