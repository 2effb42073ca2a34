"""Hidden states of any transformers decoder over a right-padded batch."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignkit.batches import TokenBatch
from alignkit.errors import UserError
from alignkit.modeling.flat import (
    attention_per_segment,
    is_padding_free,
    multiplies_by_onednn,
)
from alignkit.modeling.flat_layout import Layout, Segments, segments_of
from alignkit.modeling.flat_trial import longest_flat


def hidden_states(model: Any, batch: TokenBatch, gradient_checkpointing: bool = False) -> Tensor:
    """Last hidden states [B, T, H] of `model`'s backbone; at the padding they are nothing to rely on.

    Without padding where the model allows it: the real tokens in one row, attention for each sequence by itself.
    """
    if not is_padding_free() or not _takes_positions(model):
        return _padded(model, batch, gradient_checkpointing)
    longest = longest_flat(model, batch.ids_BT.device, partial(_padded, model), partial(_flat, model))
    segments = segments_of(batch)
    if max(segments.lengths) > longest:
        return _padded(model, batch, gradient_checkpointing)
    return _flat(model, batch, segments, gradient_checkpointing)


def _flat(model: Any, batch: TokenBatch, segments: Segments, gradient_checkpointing: bool = False) -> Tensor:
    """The real tokens as one row, put back in their places."""
    layout = Layout(
        batch, segments, rounded=multiplies_by_onednn(batch.ids_BT.device, getattr(model.config, "dtype", None))
    )
    attention = partial(attention_per_segment, model.config, segments)
    layers = checkpointed_layers(model.base_model, attention) if gradient_checkpointing else nullcontext()
    with attention(), layers:
        output = run_backbone(model, input_ids=layout.ids_1N, position_ids=layout.positions_1N, use_cache=False)
    return layout.put_back(output.last_hidden_state)


def _padded(model: Any, batch: TokenBatch, gradient_checkpointing: bool = False) -> Tensor:
    """The batch as it is.

    No attention mask is passed: rows are padded on the right and attention is causal, so no real token sees padding,
    and without a mask the fast attention paths stay open. Packed rows are told by positions that restart, from which
    transformers builds the block-diagonal mask (which it does only if there is no attention mask).
    """
    arguments: dict[str, Any] = {"input_ids": batch.ids_BT, "use_cache": False}
    if _takes_positions(model):
        arguments["position_ids"] = batch.positions_BT
    elif bool((batch.positions_BT[:, 1:] == 0).any()):
        raise UserError(
            f"{type(model).__name__} takes no positions, so packed rows would see each other",
            where="packing",
            hint="set packing: false",
        )
    with checkpointed_layers(model.base_model) if gradient_checkpointing else nullcontext():
        return cast("Tensor", run_backbone(model, **arguments).last_hidden_state)


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def run_backbone(model: Any, **arguments: Any) -> Any:
    """Output of `model` without its head: through `forward_backbone` where the module has such a method.

    A sharded module has one, so that the call passes through the hooks that gather its weights.
    """
    forward = getattr(model, "forward_backbone", None)
    return forward(**arguments) if forward is not None else model.base_model(**arguments)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers knows how to compute again."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


@contextmanager
def checkpointed_layers(
    backbone: nn.Module, surroundings: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[None]:
    """Forward passes inside keep only each layer's input; the backward pass computes the rest again.

    `surroundings` makes the context that the forward pass runs in, for the pass that comes again.

    transformers' own switch works only on layers in training mode, and rollout stages train in evaluation mode to keep
    dropout off; a layer's mode cannot be lent for it, since some layers' dropout reads that very flag. The layers get
    their forward method back at once, so that a copy of the model does not carry one bound to the original's layers.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), surroundings()

    layers = decoder_layers(backbone) if torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
