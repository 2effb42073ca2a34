"""What happens to a chunk of logits, row by row: statistics, and the gradient of anything made of them.

Every op over the vocabulary needs these two functions only. With x = softcap(scale z) / temperature, l = log softmax x
and p = exp l, and likewise l_q of a reference:

    statistics   logp = l[target],  H = -sum p l,  KL = sum p (l - l_q)
    gradient     dL/dx = a (1[target] - p) - c p (l + H) + b p (l - l_q - KL)

for a = dL/dlogp, c = dL/dH and b = dL/dKL of the row. Suffixes: C rows of a chunk, V vocabulary.
"""

from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.ops.token_logprob import upcast


class Scaling(NamedTuple):
    """x = softcap tanh(scale z / softcap) / temperature, or scale z / temperature without a cap."""

    temperature: float = 1.0
    scale: float = 1.0
    softcap: float | None = None


class Statistics(NamedTuple):
    """Of each row, [C], float32.

    `saved_CK` is what the implementation's `gradient_` needs of the softmax, K numbers a row; `scratch` is there where
    the logits were just read, and spares it to read them again.
    """

    logp_C: Tensor
    entropy_C: Tensor
    kl_C: Tensor
    saved_CK: Tensor
    scratch: Any = None


class Slopes(NamedTuple):
    """dL/dlogp, dL/dH and dL/dKL of each row, [C]; None is zero."""

    logp_C: Tensor
    entropy_C: Tensor | None = None
    kl_C: Tensor | None = None


class Reference(NamedTuple):
    """A reference's logits of the same rows."""

    z_CV: Tensor
    scaling: Scaling


class Want(Enum):
    """What the caller will read: everything, all but the entropy, or the log-prob, with no gradient to follow."""

    ALL = auto()
    NO_ENTROPY = auto()
    LOGP = auto()


class Rows(Protocol):
    """An implementation of both functions."""

    def statistics(
        self,
        z_CV: Tensor,
        targets_C: Tensor,
        scaling: Scaling,
        reference: Reference | None = None,
        want: Want = Want.ALL,
    ) -> Statistics:
        """Reads the logits; what it leaves in their place, only `gradient_` with its `scratch` can read.

        `kl_C` is zero without a reference, `entropy_C` where it is not wanted.
        """
        ...

    def gradient_(
        self,
        z_CV: Tensor,
        targets_C: Tensor,
        scaling: Scaling,
        slopes: Slopes,
        statistics: Statistics,
        reference: Reference | None = None,
    ) -> None:
        """Write dL/dz over `z_CV`: logits with the statistics of an earlier reading, or what `statistics` left."""
        ...


class _Softmax(NamedTuple):
    """l, p, the soft cap's slope where there is a cap, and l_q where there is a reference; [C, V] each."""

    l_CV: Tensor
    p_CV: Tensor
    cap_slope_CV: Tensor | None
    ref_l_CV: Tensor | None


class TorchRows:
    """Satisfies `Rows` in plain torch. A chunk in float32 is worked on in place; 16 bits take a float32 copy."""

    def statistics(
        self,
        z_CV: Tensor,
        targets_C: Tensor,
        scaling: Scaling,
        reference: Reference | None = None,
        want: Want = Want.ALL,
    ) -> Statistics:
        """See the module's text; leaves p in place of the logits."""
        if want is Want.LOGP:
            _to_x_(x_CV := upcast(z_CV), scaling)
            logp_C = -F.cross_entropy(x_CV, targets_C, reduction="none")
            zero_C = torch.zeros_like(logp_C)
            return Statistics(logp_C, zero_C, zero_C, logp_C.new_empty(len(logp_C), 0))
        softmax = _softmax(z_CV, scaling, reference)
        l_CV, p_CV = softmax.l_CV, softmax.p_CV
        logp_C = l_CV.gather(-1, targets_C[:, None])[:, 0]
        ref_l_CV = softmax.ref_l_CV
        kl_C = torch.zeros_like(logp_C) if ref_l_CV is None else ((l_CV - ref_l_CV).mul_(p_CV)).sum(-1)
        entropy_C = -(p_CV * l_CV).sum(-1) if want is Want.ALL else torch.zeros_like(logp_C)
        return Statistics(logp_C, entropy_C, kl_C, logp_C.new_empty(len(logp_C), 0), softmax)

    def gradient_(
        self,
        z_CV: Tensor,
        targets_C: Tensor,
        scaling: Scaling,
        slopes: Slopes,
        statistics: Statistics,
        reference: Reference | None = None,
    ) -> None:
        """See the module's text."""
        l_CV, p_CV, cap_slope_CV, ref_l_CV = statistics.scratch or _softmax(z_CV, scaling, reference)
        a_C1 = slopes.logp_C[:, None]
        if slopes.entropy_C is None and slopes.kl_C is None:
            d_CV = p_CV.mul_(-a_C1)
        else:
            d_CV = torch.zeros_like(p_CV)
            if slopes.kl_C is not None:
                assert ref_l_CV is not None
                torch.sub(l_CV, ref_l_CV, out=d_CV).sub_(statistics.kl_C[:, None]).mul_(slopes.kl_C[:, None])
            if slopes.entropy_C is not None:
                d_CV.sub_(l_CV.add_(statistics.entropy_C[:, None]).mul_(slopes.entropy_C[:, None]))
            d_CV.sub_(a_C1).mul_(p_CV)
        d_CV.scatter_add_(-1, targets_C[:, None], a_C1)
        if cap_slope_CV is not None:
            d_CV.mul_(cap_slope_CV)
        if scaling.scale != scaling.temperature:
            d_CV.mul_(scaling.scale / scaling.temperature)
        if d_CV is not z_CV:
            z_CV.copy_(d_CV)


def _softmax(z_CV: Tensor, scaling: Scaling, reference: Reference | None) -> _Softmax:
    """p is over the logits, if they are float32."""
    x_CV = upcast(z_CV)
    _to_x_(x_CV, scaling)
    l_CV = torch.log_softmax(x_CV, -1)
    cap_slope_CV = ref_l_CV = None
    if scaling.softcap is not None:
        cap_slope_CV = x_CV.mul(scaling.temperature / scaling.softcap).square_().neg_().add_(1)
    if reference is not None:
        ref_x_CV = upcast(reference.z_CV)
        _to_x_(ref_x_CV, reference.scaling)
        ref_l_CV = torch.log_softmax(ref_x_CV, -1)
    return _Softmax(l_CV, torch.exp(l_CV, out=x_CV), cap_slope_CV, ref_l_CV)


def _to_x_(z_CV: Tensor, scaling: Scaling) -> None:
    if scaling.softcap is not None:
        z_CV.mul_(scaling.scale / scaling.softcap).tanh_().mul_(scaling.softcap / scaling.temperature)
    elif scaling.scale != scaling.temperature:
        z_CV.mul_(scaling.scale / scaling.temperature)
