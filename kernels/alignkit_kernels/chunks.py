"""The vocabulary ops on a chunk of tokens at a time, whatever works on the rows of a chunk.

Only one chunk's logits exist at once, in a buffer that is used again: first for z, then for dL/dz, which two more
matrix products turn into the gradients of the hidden states and of the projection. That takes four products where the
logits are computed again for the backward pass, three where the gradient is made in the forward pass.

Gradients are computed for slopes of about 1 and multiplied at the end: a mean over 8192 tokens has slopes near 1e-4,
which in float16 would round most of dL/dz to zero. The projection's gradient adds up in float32.

Suffixes: N tokens, M those with a weight, C of a chunk, H hidden, G the reference's hidden, V vocabulary, K numbers
saved for a row.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from alignkit.ops.fused_linear_policy_loss import FIGURES
from alignkit_kernels.rows import Reference, Rows, Scaling, Slopes, Statistics, Want
from alignkit_kernels.terms import Objective, token_terms

# Elements of one chunk's logits. On a GPU few large chunks: each adds a pass over the projection's gradient. On a CPU
# small ones, which stay in the caches.
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**29}
HIDDEN_PER_TOKEN = 8
SHAPE_STEP = 64


class Projection(NamedTuple):
    """A head without its constants."""

    weight_VH: Tensor
    bias_V: Tensor | None
    scaling: Scaling


class Gradients(NamedTuple):
    """Of hidden states, projection and bias, before `scale`; None where not wanted."""

    h_NH: Tensor | None
    weight_VH: Tensor | None
    bias_V: Tensor | None

    def first(self, count: int) -> "Gradients":
        """Without the hidden states behind the first `count`."""
        return self if self.h_NH is None else self._replace(h_NH=self.h_NH[:count])


class Wanted(NamedTuple):
    """Which gradients."""

    h: bool
    weight: bool
    bias: bool


def wide_dtype(weight_VH: Tensor) -> torch.dtype:
    """In which statistics are and gradients add up."""
    return torch.float64 if weight_VH.dtype == torch.float64 else torch.float32


def chunk_tokens(weight_VH: Tensor) -> int:
    """Tokens of a chunk: more with a larger hidden size, as each chunk reads and writes the projection's gradient."""
    vocabulary, hidden = weight_VH.shape
    elements = CHUNK_ELEMENTS.get(weight_VH.device.type, CHUNK_ELEMENTS["cuda"])
    return max(1, elements // vocabulary, hidden // HIDDEN_PER_TOKEN)


def chunks(tokens: int, weight_VH: Tensor) -> Iterator[slice]:
    """Slices of about equal length, each at most `chunk_tokens`."""
    if tokens == 0:
        return
    most = chunk_tokens(weight_VH)
    count = -(-tokens // most)
    size = -(-tokens // count)
    if few_shapes(weight_VH):
        size = min(most, -(-size // SHAPE_STEP) * SHAPE_STEP)
    yield from (slice(start, min(tokens, start + size)) for start in range(0, tokens, size))


def few_shapes(weight_VH: Tensor) -> bool:
    """Whether chunks should have one of few lengths.

    oneDNN, which computes all but exact float32 products on a CPU, compiles a kernel for each shape of a product and
    keeps it, about half a megabyte, for as long as the process runs.
    """
    exact = weight_VH.dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
    return not weight_VH.is_cuda and (weight_VH.dtype.itemsize == 2 or not exact)


def lengthened(rows: int, weight_VH: Tensor, *columns: Tensor) -> list[Tensor]:
    """`columns` of `rows` tokens with zeros behind them, up to a multiple of `SHAPE_STEP`, where that is wanted."""
    more = -rows % SHAPE_STEP if few_shapes(weight_VH) else 0
    if not more:
        return list(columns)
    return [torch.cat([x, x.new_zeros(more, *x.shape[1:])]) for x in columns]


class Buffer:
    """Logits of one chunk after another in the same memory. A product with `out=` is one that autocast leaves alone."""

    def __init__(self, projection: Projection, rows: int) -> None:
        self.projection = projection
        self._memory = projection.weight_VH.new_empty(rows, len(projection.weight_VH))

    def logits(self, h_CH: Tensor) -> Tensor:
        """h W^T + b, [C, V]."""
        z_CV = self._memory[: len(h_CH)]
        weight_VH, bias_V, _ = self.projection
        if bias_V is None:
            return torch.mm(h_CH, weight_VH.T, out=z_CV)
        return torch.addmm(bias_V, h_CH, weight_VH.T, out=z_CV)


class Accumulator:
    """Gradients that grow chunk by chunk."""

    def __init__(self, h_NH: Tensor, projection: Projection, wanted: Wanted) -> None:
        weight_VH = projection.weight_VH
        wide = wide_dtype(weight_VH)
        self.weight_VH = weight_VH
        self.h_NH = torch.empty_like(h_NH) if wanted.h else None
        self.total_VH = torch.empty_like(weight_VH, dtype=wide) if wanted.weight else None
        self._empty = True
        self.bias_V = weight_VH.new_zeros(len(weight_VH), dtype=wide) if wanted.bias else None

    def add(self, part: slice, d_CV: Tensor, h_CH: Tensor) -> None:
        """One chunk's dL/dz."""
        if self.h_NH is not None:
            torch.mm(d_CV, self.weight_VH, out=self.h_NH[part])
        if self.total_VH is not None:
            add_product_(self.total_VH, d_CV.T, h_CH, beta=0.0 if self._empty else 1.0)
        self._empty = False
        if self.bias_V is not None:
            self.bias_V += d_CV.sum(0, dtype=self.bias_V.dtype)

    @property
    def gradients(self) -> Gradients:
        """What has been added up."""
        if self._empty and self.total_VH is not None:
            self.total_VH.zero_()
        return Gradients(self.h_NH, self.total_VH, self.bias_V)


def add_product_(total_VH: Tensor, d_VC: Tensor, h_CH: Tensor, beta: float) -> None:
    """total <- beta total + d h (beta 0: whatever total holds), rounded to 16 bits nowhere on a GPU.

    A CPU has no such product for 16 bits and rounds each chunk's.
    """
    if total_VH.dtype == d_VC.dtype:
        total_VH.addmm_(d_VC, h_CH, beta=beta)
    elif total_VH.is_cuda:
        torch.addmm(total_VH, d_VC, h_CH, out_dtype=total_VH.dtype, beta=beta, out=total_VH)
    elif beta:
        total_VH += d_VC @ h_CH
    else:
        total_VH.copy_(d_VC @ h_CH)


def logprob_forward(
    rows: Rows, h_NH: Tensor, projection: Projection, targets_N: Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob and entropy, [N], and what the backward pass needs of the rows, [N, K]."""
    count = len(h_NH)
    h_NH, targets_N = lengthened(count, projection.weight_VH, h_NH, targets_N)
    buffer = Buffer(projection, min(len(h_NH), chunk_tokens(projection.weight_VH)))
    parts = []
    for part in chunks(len(h_NH), projection.weight_VH):
        z_CV = buffer.logits(h_NH[part])
        found = rows.statistics(z_CV, targets_N[part], projection.scaling, want=Want.ALL if with_entropy else Want.LOGP)
        parts.append((found.logp_C, found.entropy_C, found.saved_CK))
    logp_N, entropy_N, saved_NK = _joined(parts, h_NH)
    return logp_N[:count].clone(), entropy_N[:count].clone(), saved_NK[:count].clone()


def logprob_backward(
    rows: Rows,
    h_NH: Tensor,
    projection: Projection,
    targets_N: Tensor,
    slopes: Slopes,
    entropy_N: Tensor,
    saved_NK: Tensor,
    wanted: Wanted,
) -> Gradients:
    """Gradients of sum_n (a_n logp_n + c_n H_n) for slopes a and c."""
    (slope_N, entropy_slope_N, _), scale = _normalised(slopes)
    count = len(h_NH)
    h_NH, targets_N, slope_N, entropy_N, saved_NK = lengthened(
        count, projection.weight_VH, h_NH, targets_N, slope_N, entropy_N, saved_NK
    )
    if entropy_slope_N is not None:
        (entropy_slope_N,) = lengthened(count, projection.weight_VH, entropy_slope_N)
    buffer = Buffer(projection, min(len(h_NH), chunk_tokens(projection.weight_VH)))
    accumulator = Accumulator(h_NH, projection, wanted)
    for part in chunks(len(h_NH), projection.weight_VH):
        z_CV = buffer.logits(h_NH[part])
        known = Statistics(entropy_N[part], entropy_N[part], entropy_N[part], saved_NK[part])
        mine = Slopes(slope_N[part], None if entropy_slope_N is None else entropy_slope_N[part])
        rows.gradient_(z_CV, targets_N[part], projection.scaling, mine, known)
        accumulator.add(part, z_CV, h_NH[part])
    return scaled(accumulator.gradients.first(count), scale, projection, h_NH.dtype)


def kl_forward(
    rows: Rows, h_NH: Tensor, projection: Projection, ref_h_NG: Tensor, reference: Projection
) -> tuple[Tensor, Tensor]:
    """Full-distribution KL, [N], and what the backward pass needs, [N, K]."""
    rows_at_once = min(len(h_NH), chunk_tokens(projection.weight_VH))
    buffer, ref_buffer = Buffer(projection, rows_at_once), Buffer(reference, rows_at_once)
    targets_N = torch.zeros(len(h_NH), dtype=torch.long, device=h_NH.device)
    parts = []
    for part in chunks(len(h_NH), projection.weight_VH):
        other = Reference(ref_buffer.logits(ref_h_NG[part]), reference.scaling)
        found = rows.statistics(buffer.logits(h_NH[part]), targets_N[part], projection.scaling, other)
        parts.append((found.kl_C, found.kl_C, found.saved_CK))
    kl_N, _, saved_NK = _joined(parts, h_NH)
    return kl_N, saved_NK


def kl_backward(
    rows: Rows,
    h_NH: Tensor,
    projection: Projection,
    ref_h_NG: Tensor,
    reference: Projection,
    slope_N: Tensor,
    kl_N: Tensor,
    saved_NK: Tensor,
    wanted: Wanted,
) -> Gradients:
    """Gradients of sum_n b_n KL_n; none flows into the reference."""
    (slope_N, _, _), scale = _normalised(Slopes(slope_N))
    rows_at_once = min(len(h_NH), chunk_tokens(projection.weight_VH))
    buffer, ref_buffer = Buffer(projection, rows_at_once), Buffer(reference, rows_at_once)
    accumulator = Accumulator(h_NH, projection, wanted)
    targets_N = torch.zeros(len(h_NH), dtype=torch.long, device=h_NH.device)
    zero_N = torch.zeros_like(kl_N)
    for part in chunks(len(h_NH), projection.weight_VH):
        z_CV = buffer.logits(h_NH[part])
        other = Reference(ref_buffer.logits(ref_h_NG[part]), reference.scaling)
        known = Statistics(zero_N[part], zero_N[part], kl_N[part], saved_NK[part])
        mine = Slopes(zero_N[part], None, slope_N[part])
        rows.gradient_(z_CV, targets_N[part], projection.scaling, mine, known, other)
        accumulator.add(part, z_CV, h_NH[part])
    return scaled(accumulator.gradients, scale, projection, h_NH.dtype)


class Tokens(NamedTuple):
    """What the policy loss knows of each token, [N]; the reference's hidden states for a full-distribution KL."""

    targets_N: Tensor
    advantages_N: Tensor
    weights_N: Tensor
    old_logp_N: Tensor | None = None
    ref_logp_N: Tensor | None = None
    ref_h_NG: Tensor | None = None

    def select(self, which: Tensor | slice) -> "Tokens":
        """Some of them."""
        return Tokens(*(None if x is None else x[which] for x in self))  # type: ignore[arg-type]


class Loss(NamedTuple):
    """The gradients are those of `loss / scale`."""

    loss: Tensor
    figures_FN: Tensor
    gradients: Gradients
    scale: Tensor


def policy_loss_forward(
    rows: Rows,
    h_NH: Tensor,
    projection: Projection,
    tokens: Tokens,
    reference: Projection | None,
    objective: Objective,
    wanted: Wanted,
) -> Loss:
    """See `alignkit.ops.fused_linear_policy_loss`. Figures in the order of `FIGURES`.

    Tokens of weight 0 are left out before the first matrix product.
    """
    weights_N = tokens.weights_N
    kept_M = weights_N.nonzero()[:, 0]
    if len(kept_M) == len(weights_N):
        return _all_policy_loss(rows, h_NH, projection, tokens, reference, objective, wanted)
    found = _all_policy_loss(rows, h_NH[kept_M], projection, tokens.select(kept_M), reference, objective, wanted)
    figures_FN = weights_N.new_zeros(len(FIGURES), len(weights_N))
    figures_FN[:, kept_M] = found.figures_FN
    grad_MH = found.gradients.h_NH
    grad_NH = None if grad_MH is None else torch.zeros_like(h_NH).index_copy_(0, kept_M, grad_MH)
    return found._replace(figures_FN=figures_FN, gradients=found.gradients._replace(h_NH=grad_NH))


def _all_policy_loss(
    rows: Rows,
    h_NH: Tensor,
    projection: Projection,
    tokens: Tokens,
    reference: Projection | None,
    objective: Objective,
    wanted: Wanted,
) -> Loss:
    given = len(h_NH)
    (h_NH,) = lengthened(given, projection.weight_VH, h_NH)
    tokens = Tokens(*(None if x is None else lengthened(given, projection.weight_VH, x)[0] for x in tokens))  # type: ignore[arg-type]
    count = len(h_NH)
    figures_FN = tokens.weights_N.new_empty(len(FIGURES), count)
    accumulator = Accumulator(h_NH, projection, wanted)
    scale = tokens.weights_N.max() if count else tokens.weights_N.new_zeros(())
    tokens = tokens._replace(weights_N=tokens.weights_N / scale)
    loss = torch.zeros_like(scale)
    want = Want.ALL if tokens.old_logp_N is not None or objective.entropy_coef else Want.NO_ENTROPY
    rows_at_once = min(count, chunk_tokens(projection.weight_VH))
    buffer = Buffer(projection, rows_at_once)
    ref_buffer = None if reference is None else Buffer(reference, rows_at_once)
    for part in chunks(count, projection.weight_VH):
        z_CV, mine, other = buffer.logits(h_NH[part]), tokens.select(part), None
        if reference is not None and ref_buffer is not None and mine.ref_h_NG is not None:
            other = Reference(ref_buffer.logits(mine.ref_h_NG), reference.scaling)
        found = rows.statistics(z_CV, mine.targets_N, projection.scaling, other, want)
        terms = token_terms(found.logp_C, mine.advantages_N, mine.old_logp_N, mine.ref_logp_N, objective)
        kl_C = found.kl_C if terms.kl_C is None else terms.kl_C
        loss_C = terms.policy_C + objective.kl_coef * kl_C
        if objective.entropy_coef:
            loss_C -= objective.entropy_coef * found.entropy_C
        loss += (loss_C * mine.weights_N).sum()
        figures = found.logp_C, found.entropy_C, terms.policy_C, kl_C, *terms.diagnostics.values()
        torch.stack(figures, out=figures_FN[:, part])
        if any(wanted):
            slopes = Slopes(
                terms.slope_C * mine.weights_N,
                -objective.entropy_coef * mine.weights_N if objective.entropy_coef else None,
                None if other is None else objective.kl_coef * mine.weights_N,
            )
            rows.gradient_(z_CV, mine.targets_N, projection.scaling, slopes, found, other)
            accumulator.add(part, z_CV, h_NH[part])
    return Loss(loss * scale, figures_FN[:, :given], accumulator.gradients.first(given), scale)


def scaled(gradients: Gradients, scale: Tensor, projection: Projection, dtype: torch.dtype) -> Gradients:
    """Times `scale`, in the dtypes of what they are gradients of."""
    h_NH, weight_VH, bias_V = gradients
    return Gradients(
        None if h_NH is None else times(h_NH, scale, dtype),
        None if weight_VH is None else times(weight_VH, scale, projection.weight_VH.dtype),
        None if bias_V is None or projection.bias_V is None else times(bias_V, scale, projection.bias_V.dtype),
    )


def times(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """x * scale in `dtype`, in slices: a float32 product as large as a projection would be the peak of memory."""
    result = torch.empty_like(x, dtype=dtype)
    if dtype == x.dtype == scale.dtype:
        return torch.mul(x, scale, out=result)
    for source, target in zip(torch.split(x, 512), torch.split(result, 512), strict=True):
        target.copy_(source * scale)
    return result


def _normalised(slopes: Slopes) -> tuple[Slopes, Tensor]:
    """Slopes of at most 1, and what they were divided by."""
    given = [x for x in slopes if x is not None]
    scale = torch.stack([x.abs().max() if len(x) else x.new_zeros(()) for x in given]).max()
    divisor = torch.where(scale > 0, scale, 1.0)
    logp_C, *others = slopes
    return Slopes(logp_C / divisor, *(None if x is None else x / divisor for x in others)), scale


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]], h_NH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not parts:
        empty_N = h_NH.new_zeros(0, dtype=torch.float32)
        return empty_N, empty_N.clone(), empty_N.new_zeros(0, 0)
    first, second, saved = (torch.cat(x) for x in zip(*parts, strict=True))
    return first, second, saved
