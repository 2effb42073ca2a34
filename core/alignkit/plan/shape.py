"""The sizes of a model that need not be here: from its config, without weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import UserError
from alignkit.preflight.folder import ModelSizes

WANTED = "wanted: a model's config.json as transformers writes it, or the folder that it lies in"


@dataclass(frozen=True)
class ModelShape(ModelSizes):
    """A decoder. `layer` and `other`: parameters of its largest layer, and of what is in no layer."""

    config: Any
    parameters: int
    bytes: int
    matrices: tuple[tuple[int, int], ...]
    layer: int
    other: int
    # Entries of the matrices inside layers, each of which multiplies every token.
    multiplied: int

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.number("num_hidden_layers", 1)

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.number("hidden_size", 0)

    @property
    def attended(self) -> int:
        """Width of the queries of one layer: heads times their size."""
        heads = self.number("num_attention_heads", 1)
        return heads * self.number("head_dim", self.hidden // heads)


def shape_of(config: Mapping[str, Any], where: str = "model") -> ModelShape:
    """Sizes of the model that a transformers config describes. Raises UserError for one that is none."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from alignkit.modeling.backbone import decoder_layers

    fields = {name: value for name, value in config.items() if name not in ("model_type", "auto_map")}
    try:
        made = AutoConfig.for_model(config["model_type"], **fields)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(made)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"this is no config of a causal language model: {error}", where=where) from error
    layers = [list(layer.parameters()) for layer in decoder_layers(model)]
    if any(p.ndim > 2 for layer in layers for p in layer):
        raise UserError("a model with experts: how many of its weights a token meets is not counted here", where=where)
    inside = [sum(p.numel() for p in layer) for layer in layers]
    every = [tuple(p.shape) for p in model.parameters()]
    parameters = sum(math.prod(shape) for shape in every)
    return ModelShape(
        config=made,
        parameters=parameters,
        bytes=4 * parameters,
        matrices=tuple((shape[0], shape[1]) for shape in every if len(shape) == 2),
        layer=max(inside),
        other=parameters - sum(inside),
        multiplied=sum(p.numel() for layer in layers for p in layer if p.ndim == 2),
    )


def shape_in(path: Path) -> ModelShape:
    """The same from a config file, or from that of a model folder."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("there is no such file", where=file, hint=WANTED) from None
    except OSError as error:
        raise UserError(f"the config cannot be read: {error.strerror or error}", where=file, hint=WANTED) from None
    except ValueError as error:
        raise UserError(f"the config is not JSON: {error}", where=file, hint=WANTED) from None
    if not isinstance(config, dict):
        raise UserError("the config is no mapping of names to values", where=file, hint=WANTED)
    return shape_of(config, str(file))
