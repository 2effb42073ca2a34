"""Key-value storage for sampling: written in place, and rows can be repeated or left out."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
)

from alignkit_plugins.sampler_hf import attention
from alignkit_plugins.sampler_hf.notices import say_once

BLOCK = 32
"""Tokens by which storage grows: a few copies in all, and little room that is read for nothing."""


class GrowingLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer with room for some more tokens; what is filled is handed out as views.

    `table`: keys are stored as [B, G, D, capacity] instead of [B, G, capacity, D], which `attention` reads faster.
    Layers with a sliding window keep all tokens too: transformers' masks hide those outside the window.
    """

    is_sliding = False

    def __init__(self, table: bool, room: int) -> None:
        super().__init__()
        self.table = table
        self.room = room
        self.filled = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Storage is made when the first states come."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append states [B, G, T, D]; returns all so far."""
        key_states, value_states = in_product_dtype(key_states), in_product_dtype(value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        if self.keys is None or self.values is None:
            self._store(key_states.transpose(2, 3) if self.table else key_states, value_states)
            return key_states, value_states
        if self.filled > self.keys.shape[3 if self.table else 2]:
            old = self.keys[..., :start] if self.table else self.keys[:, :, :start]
            self._store(old, self.values[:, :, :start])
        keys = self.keys.transpose(2, 3) if self.table else self.keys
        keys[:, :, start : self.filled] = key_states
        self.values[:, :, start : self.filled] = value_states
        return keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def _store(self, keys: Tensor, values: Tensor) -> None:
        """Copy what there is to new storage, with room for all tokens seen and some more.

        Where memory is taken only as it is written to, values get all the room that they can need.
        """
        axis, filled = 3 if self.table else 2, values.shape[2]
        capacity = (self.filled // BLOCK + 1) * BLOCK
        self.keys = _roomy(keys, axis, capacity)
        if self.table:
            self.keys[..., filled:] = 0.0  # rows of the table are read whole
        self.values = _roomy(values, 2, max(self.room, self.filled) if self.table else capacity)
        self.is_initialized = True

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may come more than once."""
        if self.keys is not None and self.values is not None:
            keys = self.keys[..., : self.filled] if self.table else self.keys[:, :, : self.filled]
            self._store(keys[rows], self.values[:, :, : self.filled][rows])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next `query_length` tokens see."""
        return self.filled + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens stored."""
        return self.filled

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name in earlier releases


class FixedLayer(StaticLayer):  # type: ignore[misc]
    """transformers' layer of fixed size, whose step can be captured in a CUDA graph; states may come under autocast."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write states [B, G, T, D] behind the last ones; returns all of the storage."""
        states = in_product_dtype(key_states), in_product_dtype(value_states)
        return super().update(*states)  # type: ignore[no-any-return]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may come more than once."""
        layer: Any = self
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)


def _roomy(states: Tensor, axis: int, capacity: int) -> Tensor:
    """A copy in storage of `capacity` along `axis`."""
    shape = list(states.shape)
    shape[axis] = capacity
    storage = states.new_empty(shape)
    storage.narrow(axis, 0, states.shape[axis]).copy_(states)
    return storage


def in_product_dtype(states: Tensor) -> Tensor:
    """As attention will read it: autocast would cast all keys and values again for each token."""
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def make_cache(module: Any, device: torch.device, room: int, fixed: bool) -> Cache:
    """Storage for one batch of `room` tokens, all at once or growing. transformers' own for a model with other layers.

    Whether rows can be repeated and left out is `can_select`.
    """
    own = DynamicCache(config=module.config)
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in own.layers)
    if not own.layers or not plain:
        say_once(
            f"{type(module).__name__} has a cache of its own kind: each completion reads its prompt anew and stays in "
            "the batch to the end (slower; what is drawn is the same)"
        )
        return own
    if fixed:
        return Cache(layers=[FixedLayer(max_cache_len=room) for _ in own.layers])
    text_config = module.config.get_text_config(decoder=True)
    table = text_config._attn_implementation == "sdpa" and attention.runs_on(device)
    return Cache(layers=[GrowingLayer(table, room) for _ in own.layers])


def can_select(cache: Cache) -> bool:
    """Whether it is storage from here."""
    return all(hasattr(layer, "select") for layer in cache.layers)


def select(cache: Cache, rows: Tensor) -> None:
    """Keep these rows of all layers."""
    for layer in cache.layers:
        layer.select(rows)
