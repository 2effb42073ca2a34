"""Flat states: nesting them by prefix, and the weights of a module as one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.errors import UserError
from alignkit.protocols import State


def prefixed(name: str, state: State) -> dict[str, Any]:
    """`state` with `name.` before each key, to stand beside others."""
    return {f"{name}.{key}": value for key, value in state.items()}


def under(name: str, state: State) -> dict[str, Any]:
    """The part of `state` that `prefixed(name, …)` put there, without the prefix."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and all buffers, by name. No copies: to be written before the next update.

    Frozen weights are left out: they are as they were loaded, and with an adapter they are nearly everything.
    """
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
    for name, tensor in own.items():
        tensor.copy_(state[name])
