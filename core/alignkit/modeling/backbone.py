"""Hidden states of any transformers decoder over a right-padded batch."""

import inspect
from typing import Any, cast

from torch import Tensor

from alignkit.batches import TokenBatch
from alignkit.errors import UserError


def hidden_states(model: Any, batch: TokenBatch) -> Tensor:
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
    return cast("Tensor", backbone(**arguments).last_hidden_state)
