"""Rows of logits in Triton: one reading for the statistics, one reading and writing for the gradient."""

import torch
import triton
from torch import Tensor

from alignkit_kernels.rows import Reference, Scaling, Slopes, Statistics, Want
from alignkit_kernels.triton_kernels.vocabulary import row_gradient, row_statistics

STATISTICS_BLOCK, GRADIENT_BLOCK = 4096, 2048


class TritonRows:
    """Satisfies `alignkit_kernels.rows.Rows`."""

    def statistics(
        self,
        z_CV: Tensor,
        targets_C: Tensor,
        scaling: Scaling,
        reference: Reference | None = None,
        want: Want = Want.ALL,
    ) -> Statistics:
        """See `alignkit_kernels.rows`; leaves the logits as they are."""
        rows, vocabulary = z_CV.shape
        _check(z_CV)
        logp_C, entropy_C = (z_CV.new_empty(rows, dtype=torch.float32) for _ in range(2))
        kl_C = torch.zeros_like(logp_C)
        saved_CK = logp_C.new_empty(rows, 2 if reference is None else 4)
        ref_CV, ref_scaling = (z_CV, scaling) if reference is None else reference
        block = block_size(vocabulary, STATISTICS_BLOCK)
        row_statistics[(rows,)](
            z_CV,
            z_CV.stride(0),
            ref_CV,
            ref_CV.stride(0),
            targets_C.contiguous(),
            logp_C,
            entropy_C,
            kl_C,
            saved_CK,
            vocabulary,
            *_factors(scaling),
            *_factors(ref_scaling),
            CAP=scaling.softcap is not None,
            REF=reference is not None,
            REF_CAP=ref_scaling.softcap is not None,
            BLOCK=block,
            num_warps=warps(block),
        )
        return Statistics(logp_C, entropy_C if want is Want.ALL else torch.zeros_like(entropy_C), kl_C, saved_CK)

    def gradient_(
        self,
        z_CV: Tensor,
        targets_C: Tensor,
        scaling: Scaling,
        slopes: Slopes,
        statistics: Statistics,
        reference: Reference | None = None,
    ) -> None:
        """See `alignkit_kernels.rows`."""
        self.gradient(z_CV, targets_C, scaling, slopes, statistics, reference, out_CV=z_CV)

    def gradient(
        self,
        z_CV: Tensor,
        targets_C: Tensor,
        scaling: Scaling,
        slopes: Slopes,
        statistics: Statistics,
        reference: Reference | None,
        out_CV: Tensor,
    ) -> None:
        """dL/dz into `out_CV`, which may be the logits."""
        rows, vocabulary = z_CV.shape
        ref_CV, ref_scaling = (z_CV, scaling) if reference is None else reference
        block = block_size(vocabulary, GRADIENT_BLOCK)
        zero_C = statistics.entropy_C
        row_gradient[(rows, triton.cdiv(vocabulary, block))](
            z_CV,
            z_CV.stride(0),
            ref_CV,
            ref_CV.stride(0),
            out_CV,
            out_CV.stride(0),
            targets_C.contiguous(),
            slopes.logp_C.contiguous(),
            zero_C if slopes.entropy_C is None else slopes.entropy_C.contiguous(),
            zero_C if slopes.kl_C is None else slopes.kl_C.contiguous(),
            statistics.entropy_C,
            statistics.kl_C,
            statistics.saved_CK,
            vocabulary,
            *_factors(scaling),
            *_factors(ref_scaling),
            scaling.scale / scaling.temperature,
            CAP=scaling.softcap is not None,
            REF=reference is not None,
            REF_CAP=ref_scaling.softcap is not None,
            ENTROPY=slopes.entropy_C is not None,
            SAVED=statistics.saved_CK.shape[1],
            BLOCK=block,
            num_warps=warps(block),
        )


def block_size(count: int, largest: int) -> int:
    """A power of two that covers `count`, or `largest`."""
    return min(largest, max(16, 1 << (count - 1).bit_length()))


def warps(block: int) -> int:
    """16 elements or so for each thread."""
    return max(1, min(8, block // 512))


def _factors(scaling: Scaling) -> tuple[float, float]:
    """`inner` and `outer` of the kernel's `scaled`."""
    if scaling.softcap is None:
        return scaling.scale, 1 / scaling.temperature
    return scaling.scale / scaling.softcap, scaling.softcap / scaling.temperature


def _check(z_CV: Tensor) -> None:
    if z_CV.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"the Triton kernels take float32, bfloat16 and float16, not {z_CV.dtype}")
    if z_CV.stride(1) != 1:
        raise ValueError("logits must be contiguous along the vocabulary")
