"""Hidden states of any transformers decoder over a right-padded batch."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignkit.batches import TokenBatch
from alignkit.errors import UserError


def hidden_states(model: Any, batch: TokenBatch, gradient_checkpointing: bool = False) -> Tensor:
    """Last hidden states [B, T, H] of `model`'s backbone.

    No attention mask is passed: rows are padded on the right and attention is causal, so no real token sees padding,
    and without a mask the fast attention paths stay open. Packed rows are told by positions that restart, from which
    transformers builds the block-diagonal mask (which it does only if there is no attention mask).
    """
    backbone = model.base_model
    arguments: dict[str, Any] = {"input_ids": batch.ids_BT, "use_cache": False}
    if "position_ids" in inspect.signature(backbone.forward).parameters:
        arguments["position_ids"] = batch.positions_BT
    elif bool((batch.positions_BT[:, 1:] == 0).any()):
        raise UserError(
            f"{type(model).__name__} takes no positions, so packed rows would see each other",
            where="packing",
            hint="set packing: false",
        )
    with checkpointed_layers(backbone) if gradient_checkpointing else nullcontext():
        return cast("Tensor", backbone(**arguments).last_hidden_state)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers knows how to compute again."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


@contextmanager
def checkpointed_layers(backbone: nn.Module) -> Iterator[None]:
    """Forward passes inside keep only each layer's input; the backward pass computes the rest again.

    transformers' own switch works only on layers in training mode, and rollout stages train in evaluation mode to keep
    dropout off; a layer's mode cannot be lent for it, since some layers' dropout reads that very flag. The layers get
    their forward method back at once, so that a copy of the model does not carry one bound to the original's layers.
    """
    layers = decoder_layers(backbone) if torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
