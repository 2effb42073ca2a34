"""Operators of torch whose work is one Triton launch; the formulas are those of `alignkit.ops`."""

from typing import Any

import torch
import triton
from torch import Tensor

from alignkit.kl import MAX_LOG_RATIO
from alignkit_kernels.rows import Scaling, Slopes, Statistics
from alignkit_kernels.triton_kernels.elementwise import (
    gae_program,
    pairwise_loss_program,
    policy_loss_program,
    value_loss_program,
)
from alignkit_kernels.triton_rows import TritonRows, block_size, warps

BLOCK = 1024


def _grid(count: int) -> tuple[int]:
    return (max(1, triton.cdiv(count, BLOCK)),)


def _plain(*tensors: Tensor) -> list[Tensor]:
    """Float32 and contiguous, as the programs read them."""
    return [x.float().contiguous() for x in tensors]


@torch.library.custom_op("alignkit::token_logprob", mutates_args=())
def token_logprob(z_NV: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob and entropy [N], and maximum and log of the sum of each row's softmax [N, 2]."""
    found = TritonRows().statistics(z_NV.contiguous(), targets_N, Scaling(temperature))
    return found.logp_C, found.entropy_C, found.saved_CK


@token_logprob.register_fake
def _(z_NV: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    figure_N = z_NV.new_empty(len(z_NV), dtype=torch.float32)
    return figure_N, torch.empty_like(figure_N), figure_N.new_empty(len(z_NV), 2)


@torch.library.custom_op("alignkit::token_logprob_backward", mutates_args=())
def token_logprob_backward(
    z_NV: Tensor,
    targets_N: Tensor,
    temperature: float,
    logp_slope_N: Tensor,
    entropy_slope_N: Tensor | None,
    entropy_N: Tensor,
    saved_N2: Tensor,
) -> Tensor:
    """dL/dz."""
    z_NV = z_NV.contiguous()
    out_NV = torch.empty_like(z_NV)
    known = Statistics(entropy_N, entropy_N, entropy_N, saved_N2)
    slopes = Slopes(logp_slope_N, entropy_slope_N)
    TritonRows().gradient(z_NV, targets_N, Scaling(temperature), slopes, known, None, out_NV)
    return out_NV


@token_logprob_backward.register_fake
def _(z_NV: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(z_NV, memory_format=torch.contiguous_format)


def _save_token_logprob(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z_NV, targets_N, ctx.temperature = inputs
    ctx.save_for_backward(z_NV, targets_N, output[1], output[2])
    ctx.set_materialize_grads(False)


def _grad_token_logprob(ctx: Any, logp_slope_N: Tensor | None, entropy_slope_N: Tensor | None, _: Any) -> Any:
    z_NV, targets_N, entropy_N, saved_N2 = ctx.saved_tensors
    if logp_slope_N is None and entropy_slope_N is None:
        return None, None, None
    if logp_slope_N is None:
        logp_slope_N = torch.zeros_like(entropy_N)
    grad_NV = token_logprob_backward(
        z_NV, targets_N, ctx.temperature, logp_slope_N, entropy_slope_N, entropy_N, saved_N2
    )
    return grad_NV, None, None


token_logprob.register_autograd(_grad_token_logprob, setup_context=_save_token_logprob)


@torch.library.custom_op("alignkit::policy_loss", mutates_args=())
def policy_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, low: float, high: float, dual: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, ratio, clipped, approximate KL and slope, [N]."""
    inputs = _plain(logp_N, old_logp_N, advantages_N)
    outputs = tuple(torch.empty_like(inputs[0]) for _ in range(5))
    policy_loss_program[_grid(len(logp_N))](
        *inputs, *outputs, len(logp_N), low, high, 0.0 if dual is None else dual, MAX_LOG_RATIO,
        DUAL=dual is not None, BLOCK=BLOCK,
    )  # fmt: skip
    return outputs  # type: ignore[return-value]


@policy_loss.register_fake
def _(logp_N: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(torch.empty(len(logp_N), device=logp_N.device) for _ in range(5))  # type: ignore[return-value]


@torch.library.custom_op("alignkit::value_loss", mutates_args=())
def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """Loss and slope, [N]."""
    inputs = _plain(values_N, old_values_N, returns_N)
    loss_N, slope_N = (torch.empty_like(inputs[0]) for _ in range(2))
    value_loss_program[_grid(len(values_N))](
        *inputs, loss_N, slope_N, len(values_N), 0.0 if clip is None else clip, CLIP=clip is not None, BLOCK=BLOCK
    )
    return loss_N, slope_N


@value_loss.register_fake
def _(values_N: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(len(values_N), device=values_N.device), torch.empty(len(values_N), device=values_N.device)


@torch.library.custom_op("alignkit::pairwise_loss", mutates_args=())
def pairwise_loss(
    chosen_P: Tensor, rejected_P: Tensor, p_P: Tensor, margin_P: Tensor, weight_P: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss and its slope with respect to `chosen`, [P]."""
    inputs = _plain(chosen_P, rejected_P, p_P, margin_P, weight_P)
    loss_P, slope_P = (torch.empty_like(inputs[0]) for _ in range(2))
    pairwise_loss_program[_grid(len(chosen_P))](*inputs, loss_P, slope_P, len(chosen_P), BLOCK=BLOCK)
    return loss_P, slope_P


@pairwise_loss.register_fake
def _(chosen_P: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(len(chosen_P), device=chosen_P.device), torch.empty(len(chosen_P), device=chosen_P.device)


@torch.library.custom_op("alignkit::gae", mutates_args=())
def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, [B, T]; one launch."""
    rewards_BT, values_BT = _plain(rewards_BT, values_BT)
    advantages_BT, returns_BT = torch.empty_like(rewards_BT), torch.empty_like(rewards_BT)
    rows, length = rewards_BT.shape
    block = block_size(length, BLOCK)
    if rows and length:
        gae_program[(rows,)](
            rewards_BT, values_BT, mask_BT.to(torch.int8).contiguous(), advantages_BT, returns_BT, length, gamma,
            gamma * lam, BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    return advantages_BT, returns_BT


@gae.register_fake
def _(rewards_BT: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    empty_BT = torch.empty(rewards_BT.shape, device=rewards_BT.device)
    return empty_BT, torch.empty_like(empty_BT)


def _save_slope(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[-1])
    ctx.inputs, ctx.dtypes = len(inputs), [x.dtype for x in inputs if isinstance(x, Tensor)]


def _grad_first(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    (slope,) = ctx.saved_tensors
    return ((grad * slope).to(ctx.dtypes[0]), *(None,) * (ctx.inputs - 1))


def _grad_pair(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    (slope,) = ctx.saved_tensors
    product = grad * slope
    return product.to(ctx.dtypes[0]), -product.to(ctx.dtypes[1]), None, None, None


policy_loss.register_autograd(_grad_first, setup_context=_save_slope)
value_loss.register_autograd(_grad_first, setup_context=_save_slope)
pairwise_loss.register_autograd(_grad_pair, setup_context=_save_slope)
