"""The vocabulary ops as custom operators of torch: opaque to torch.compile, with shapes for it and with gradients.

`rows` names what works on the rows of a chunk of logits (`ROWS`). An operator takes tensors and numbers only, so heads
and terms come in their parts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignkit.ops.fused_linear_policy_loss import FIGURES
from alignkit_kernels import chunks
from alignkit_kernels.chunks import Gradients, Projection, Tokens, Wanted, wide_dtype
from alignkit_kernels.rows import Rows, Scaling, Slopes, TorchRows
from alignkit_kernels.terms import Objective


def _triton_rows() -> Rows:
    from alignkit_kernels.triton_rows import TritonRows

    return TritonRows()


# Name -> constructor, and how many numbers of a row's softmax it saves (without and with a reference).
ROWS: dict[str, Callable[[], Rows]] = {"torch": TorchRows, "triton": _triton_rows}
SAVED = {"torch": (0, 0), "triton": (2, 4)}


def _wanted(flags: int) -> Wanted:
    return Wanted(bool(flags & 1), bool(flags & 2), bool(flags & 4))


def flags(*needed: bool) -> int:
    """Which gradients are wanted, of hidden states, projection and bias, as one number; `_wanted` reads it."""
    return sum(1 << n for n, need in enumerate(needed) if need)


def _outputs(gradients: Gradients, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An operator returns tensors: empty ones where no gradient was wanted."""
    h_NH, weight_VH, bias_V = (like.new_empty(0) if x is None else x for x in gradients)
    return h_NH, weight_VH, bias_V


def _input_gradients(outputs: Sequence[Tensor], wanted: int, inputs: int) -> tuple[Tensor | None, ...]:
    """What autograd wants for `inputs` arguments: hidden states, projection and bias are the second to the fourth."""
    own = (x if want else None for x, want in zip(outputs, _wanted(wanted), strict=True))
    return (None, *own, *(None,) * (inputs - 4))


@torch.library.custom_op("alignkit::linear_logprob", mutates_args=())
def linear_logprob(
    rows: str,
    h_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    temperature: float,
    scale: float,
    softcap: float | None,
    with_entropy: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob and entropy [N], and what the backward pass needs [N, K]."""
    projection = Projection(weight_VH, bias_V, Scaling(temperature, scale, softcap))
    return chunks.logprob_forward(ROWS[rows](), h_NH, projection, targets_N, with_entropy)


@linear_logprob.register_fake
def _(rows: str, h_NH: Tensor, weight_VH: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    figure_N = h_NH.new_empty(len(h_NH), dtype=wide_dtype(weight_VH))
    return figure_N, torch.empty_like(figure_N), figure_N.new_empty(len(h_NH), SAVED[rows][0])


@torch.library.custom_op("alignkit::linear_logprob_backward", mutates_args=())
def linear_logprob_backward(
    rows: str,
    h_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    temperature: float,
    scale: float,
    softcap: float | None,
    logp_slope_N: Tensor,
    entropy_slope_N: Tensor | None,
    entropy_N: Tensor,
    saved_NK: Tensor,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden states, projection and bias; empty where not wanted."""
    projection = Projection(weight_VH, bias_V, Scaling(temperature, scale, softcap))
    slopes = Slopes(logp_slope_N, entropy_slope_N)
    found = chunks.logprob_backward(
        ROWS[rows](), h_NH, projection, targets_N, slopes, entropy_N, saved_NK, _wanted(wanted)
    )
    return _outputs(found, weight_VH)


@linear_logprob_backward.register_fake
def _(rows: str, h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _like_inputs(h_NH, weight_VH, bias_V, _wanted(rest[-1]))


def _save_logprob(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.rows, h_NH, weight_VH, bias_V, targets_N, *ctx.constants, ctx.with_entropy = inputs
    ctx.save_for_backward(h_NH, weight_VH, bias_V, targets_N, output[1], output[2])
    ctx.set_materialize_grads(False)


def _grad_logprob(ctx: Any, logp_slope_N: Tensor | None, entropy_slope_N: Tensor | None, _: Any) -> tuple[Any, ...]:
    h_NH, weight_VH, bias_V, targets_N, entropy_N, saved_NK = ctx.saved_tensors
    if logp_slope_N is None and entropy_slope_N is None:
        return (None,) * 9
    if logp_slope_N is None:
        logp_slope_N = torch.zeros_like(entropy_N)
    wanted = flags(*ctx.needs_input_grad[1:4])
    # Gradients of sums have stride 0.
    gradients = linear_logprob_backward(
        ctx.rows, h_NH, weight_VH, bias_V, targets_N, *ctx.constants,
        logp_slope_N.contiguous(),
        entropy_slope_N.contiguous() if entropy_slope_N is not None and ctx.with_entropy else None,
        entropy_N, saved_NK, wanted,
    )  # fmt: skip
    return _input_gradients(gradients, wanted, 9)


linear_logprob.register_autograd(_grad_logprob, setup_context=_save_logprob)


@torch.library.custom_op("alignkit::linear_kl", mutates_args=())
def linear_kl(
    rows: str,
    h_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    ref_h_NG: Tensor,
    ref_weight_VG: Tensor,
    ref_bias_V: Tensor | None,
    temperature: float,
    scale: float,
    softcap: float | None,
    ref_scale: float,
    ref_softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Full-distribution KL [N], and what the backward pass needs [N, K]."""
    projection = Projection(weight_VH, bias_V, Scaling(temperature, scale, softcap))
    reference = Projection(ref_weight_VG, ref_bias_V, Scaling(temperature, ref_scale, ref_softcap))
    return chunks.kl_forward(ROWS[rows](), h_NH, projection, ref_h_NG, reference)


@linear_kl.register_fake
def _(rows: str, h_NH: Tensor, weight_VH: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    kl_N = h_NH.new_empty(len(h_NH), dtype=wide_dtype(weight_VH))
    return kl_N, kl_N.new_empty(len(h_NH), SAVED[rows][1])


@torch.library.custom_op("alignkit::linear_kl_backward", mutates_args=())
def linear_kl_backward(
    rows: str,
    h_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    ref_h_NG: Tensor,
    ref_weight_VG: Tensor,
    ref_bias_V: Tensor | None,
    temperature: float,
    scale: float,
    softcap: float | None,
    ref_scale: float,
    ref_softcap: float | None,
    slope_N: Tensor,
    kl_N: Tensor,
    saved_NK: Tensor,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the policy's hidden states, projection and bias; empty where not wanted."""
    projection = Projection(weight_VH, bias_V, Scaling(temperature, scale, softcap))
    reference = Projection(ref_weight_VG, ref_bias_V, Scaling(temperature, ref_scale, ref_softcap))
    found = chunks.kl_backward(
        ROWS[rows](), h_NH, projection, ref_h_NG, reference, slope_N, kl_N, saved_NK, _wanted(wanted)
    )
    return _outputs(found, weight_VH)


@linear_kl_backward.register_fake
def _(rows: str, h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _like_inputs(h_NH, weight_VH, bias_V, _wanted(rest[-1]))


def _save_kl(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.rows, *tensors = inputs[:7]
    ctx.constants = inputs[7:]
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _grad_kl(ctx: Any, slope_N: Tensor | None, _: Any) -> tuple[Any, ...]:
    if slope_N is None:
        return (None,) * 12
    *tensors, kl_N, saved_NK = ctx.saved_tensors
    wanted = flags(*ctx.needs_input_grad[1:4])
    gradients = linear_kl_backward(ctx.rows, *tensors, *ctx.constants, slope_N.contiguous(), kl_N, saved_NK, wanted)
    return _input_gradients(gradients, wanted, 12)


linear_kl.register_autograd(_grad_kl, setup_context=_save_kl)


@torch.library.custom_op("alignkit::linear_policy_loss", mutates_args=())
def linear_policy_loss(
    rows: str,
    h_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    old_logp_N: Tensor | None,
    ref_logp_N: Tensor | None,
    ref_h_NG: Tensor | None,
    ref_weight_VG: Tensor | None,
    ref_bias_V: Tensor | None,
    temperature: float,
    scale: float,
    softcap: float | None,
    ref_scale: float,
    ref_softcap: float | None,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    entropy_coef: float,
    kl_coef: float,
    kl_estimator: str | None,
    kl_gradient: str,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, figures [F, N], gradients of hidden states, projection and bias before scaling, and their scale."""
    projection = Projection(weight_VH, bias_V, Scaling(temperature, scale, softcap))
    tokens = Tokens(targets_N, advantages_N, weights_N, old_logp_N, ref_logp_N, ref_h_NG)
    reference = None
    if ref_weight_VG is not None:
        reference = Projection(ref_weight_VG, ref_bias_V, Scaling(temperature, ref_scale, ref_softcap))
    objective = Objective(clip_low, clip_high, dual_clip, entropy_coef, kl_coef, kl_estimator, kl_gradient)
    found = chunks.policy_loss_forward(ROWS[rows](), h_NH, projection, tokens, reference, objective, _wanted(wanted))
    return found.loss, found.figures_FN, *_outputs(found.gradients, weight_VH), found.scale.clone()


@linear_policy_loss.register_fake
def _(
    rows: str,
    h_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    advantages_N: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    weights_N = rest[0]
    w = _wanted(rest[-1])
    wide = wide_dtype(weight_VH)
    loss = weights_N.new_empty(())
    return (
        loss,
        weights_N.new_empty(len(FIGURES), len(h_NH)),
        torch.empty_like(h_NH) if w.h else weight_VH.new_empty(0),
        torch.empty_like(weight_VH, dtype=wide) if w.weight else weight_VH.new_empty(0),
        torch.empty_like(bias_V, dtype=wide) if w.bias and bias_V is not None else weight_VH.new_empty(0),
        weights_N.new_empty(()),
    )


@torch.library.custom_op("alignkit::scaled_gradients", mutates_args=())
def scaled_gradients(
    h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, scale: Tensor, dtype: torch.dtype, bias_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients times `scale`, hidden states' and projection's in `dtype`."""
    return (
        chunks.times(h_NH, scale, dtype),
        chunks.times(weight_VH, scale, dtype),
        chunks.times(bias_V, scale, bias_dtype),
    )


@scaled_gradients.register_fake
def _(
    h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, scale: Tensor, dtype: torch.dtype, bias_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(h_NH, dtype=dtype),
        torch.empty_like(weight_VH, dtype=dtype),
        torch.empty_like(bias_V, dtype=bias_dtype),
    )


def _save_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, weight_VH, bias_V, *_ = inputs
    ctx.wanted, ctx.inputs = inputs[-1], len(inputs)
    ctx.dtypes = weight_VH.dtype, weight_VH.dtype if bias_V is None else bias_V.dtype
    ctx.save_for_backward(*output[2:])
    # or autograd would make zeros in the shape of each output that is not used, the projection's gradient among them
    ctx.set_materialize_grads(False)


def _grad_loss(ctx: Any, slope: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if slope is None:
        return (None,) * int(ctx.inputs)
    *gradients, scale = ctx.saved_tensors
    gradients = scaled_gradients(*gradients, scale * slope, *ctx.dtypes)
    return _input_gradients(gradients, ctx.wanted, ctx.inputs)


linear_policy_loss.register_autograd(_grad_loss, setup_context=_save_loss)


def _like_inputs(h_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, w: Wanted) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(h_NH) if w.h else weight_VH.new_empty(0),
        torch.empty_like(weight_VH) if w.weight else weight_VH.new_empty(0),
        torch.empty_like(bias_V) if w.bias and bias_V is not None else weight_VH.new_empty(0),
    )
