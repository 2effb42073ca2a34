"""Flat states: copies of one, and the weights of a module as one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.checkpoints.parts import fill
from alignkit.errors import UserError
from alignkit.modeling.sharding import is_part, part_on_host, reshard


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """`state` itself with copies on the CPU in place of its tensors.

    What is on a GPU goes into pinned memory, several times as fast; torch keeps that memory for the next time. What is
    there already was copied by whoever gave it.
    """
    on_gpu = any(value.is_cuda for value in state.values() if isinstance(value, Tensor))
    for name, value in state.items():
        if isinstance(value, Tensor) and not (on_gpu and not is_part(value) and value.is_pinned()):
            state[name] = to_host(value)
    if on_gpu:
        torch.cuda.synchronize()
    return state


def to_host(tensor: Tensor) -> Tensor:
    """A copy on the CPU; what comes from a GPU is there after `torch.cuda.synchronize()` only."""
    if is_part(tensor):
        return part_on_host(tensor, to_host)
    if not tensor.is_cuda:
        return tensor.detach().to("cpu", copy=True)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor.detach(), non_blocking=True)


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and all buffers, by name. No copies: to be written before the next update.

    Frozen weights are left out: they are as they were loaded, and with an adapter they are nearly everything.
    """
    reshard(module)
    found: dict[str, Tensor] = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    return found | {name: buffer.detach() for name, buffer in module.named_buffers()}


@torch.no_grad()
def restore_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a `module_state()` into `module`. Raises UserError, before anything is changed, for another model's."""
    own = module_state(module)
    other = sorted(own.keys() ^ state.keys()) or [n for n in sorted(own) if own[n].shape != state[n].shape]
    if other:
        raise UserError(
            f"the checkpoint is of another model: {other[0]} differs, and {len(other) - 1} more",
            hint="--from ID does the step again from its start",
        )
    fill(own, state)
