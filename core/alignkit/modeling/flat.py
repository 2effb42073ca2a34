"""Padding-free forward passes: the real tokens of a batch in one row, and attention for each sequence by itself.

The function that computes attention is registered with transformers and switched on around a call of the backbone;
everything else in a decoder works on each token alone. Where that is not so (recurrent layers, attention that goes its
own way), `alignkit.modeling.flat_trial` finds it out and the rows stay padded.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.modeling.flat_layout import Segments

NAME = "alignkit_flat"
# Tokens up to which plain products beat torch's fused attention where oneDNN computes, and may hold all their scores.
SHORT = 256


class Unsupported(Exception):
    """Something in a model's attention that is not computed here."""


_padding_free: ContextVar[bool] = ContextVar("padding_free", default=True)
_segments: ContextVar[Segments | None] = ContextVar("segments", default=None)
# Of each config that is switched, by its id: how many passes run, and what it and those inside it had before.
_users: dict[int, tuple[int, list[tuple[Any, str | None]]]] = {}
_switching = Lock()


@contextmanager
def padding_free(wanted: bool) -> Iterator[None]:
    """Whether rows are put together at all; else every forward pass inside is padded."""
    token = _padding_free.set(wanted)
    try:
        yield
    finally:
        _padding_free.reset(token)


def is_padding_free() -> bool:
    """Whether rows are put together here."""
    return _padding_free.get()


@contextmanager
def attention_per_segment(config: Any, segments: Segments) -> Iterator[None]:
    """Inside, models with this config compute attention for each segment of their only row."""
    token = _segments.set(segments)
    try:
        with _switched(config):
            yield
    finally:
        _segments.reset(token)


@contextmanager
def _switched(config: Any) -> Iterator[None]:
    """Our attention, until the last of those who are inside leaves.

    A reward source that took too long may still be at work in its thread while it is asked again.
    """
    from transformers import AttentionInterface

    with _switching:
        users, before = _users.get(id(config), (0, []))
        if not users:
            AttentionInterface.register(NAME, segment_attention)
            before = [(part, part._attn_implementation) for part in _configs(config)]
            config._attn_implementation = NAME
        _users[id(config)] = users + 1, before
    try:
        yield
    finally:
        with _switching:
            users, before = _users.pop(id(config))
            if users > 1:
                _users[id(config)] = users - 1, before
            else:
                for part, implementation in before:  # the outermost first: setting it sets its parts
                    part._attn_implementation = implementation


def _configs(config: Any) -> list[Any]:
    """A config and those inside it."""
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    return [config, *(inner for part in parts if part is not None for inner in _configs(part))]


def segment_attention(
    module: Any,
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each of the current segments, as transformers asks for it; [1, N, H, D].

    `sliding_window` counts the token itself; `softcap` bounds the scores; `s_aux` are the logits of a sink for each
    head, which takes a share of the softmax and gives nothing.
    """
    segments = _segments.get()
    assert segments is not None
    segments.calls += 1
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    if attention_mask is not None or not causal or options.get("position_bias") is not None:
        raise Unsupported("attention with a mask of its own")
    if query_1HND.shape[2] != key_1HND.shape[2] or query_1HND.shape[2] != sum(segments.lengths):
        raise Unsupported("attention to other tokens than the row's")
    window = sliding_window if sliding_window is not None and sliding_window < max(segments.lengths) else None
    query_1HND, key_1HND, value_1HND = _cast(query_1HND, key_1HND, value_1HND)
    if softcap is None and s_aux is None and not dropout:
        found = _varlen(query_1HND, key_1HND, value_1HND, segments, scaling, window)
        if found is not None:
            return found, None
    groups = query_1HND.shape[1] // key_1HND.shape[1]
    if groups > 1:
        key_1HND, value_1HND = (x.repeat_interleave(groups, dim=1) for x in (key_1HND, value_1HND))
    # split, whose gradient is one concatenation: that of slices would be a zero-filled whole for each
    sizes = [count * length for count, length in segments.runs]
    parts = []
    split = [torch.split(x[0], sizes, 1) for x in (query_1HND, key_1HND, value_1HND)]
    for (count, length), *run in zip(segments.runs, *split, strict=True):
        query, key, value = (x.unflatten(1, (count, length)).transpose(0, 1) for x in run)
        mask_TT = None if window is None or window >= length else _mask(length, window, query.device)
        if softcap is None and s_aux is None and not _is_slow(query):
            out_CHTD = F.scaled_dot_product_attention(
                query, key, value, mask_TT, dropout, is_causal=mask_TT is None, scale=scaling
            )
        else:
            mask_TT = _mask(length, length, query.device) if mask_TT is None else mask_TT
            out_CHTD = _by_scores(query, key, value, mask_TT, dropout, scaling, softcap, s_aux)
        parts.append(out_CHTD.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).to(value_1HND.dtype)[None], None


def _cast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In autocast's dtype, where it is on: rotary embeddings leave queries and keys in another one than values."""
    device = query.device.type
    if not torch.is_autocast_enabled(device):
        return query, key, value
    dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _mask(length: int, window: int, device: torch.device) -> Tensor:
    """True where row i may see column j: i - window < j <= i."""
    ones_TT = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones_TT.tril().triu(1 - window)


def _is_slow(query_CHTD: Tensor) -> bool:
    """Whether torch's fused attention takes much longer than plain products: on a CPU, with oneDNN, if short."""
    return query_CHTD.shape[2] <= SHORT and multiplies_by_onednn(query_CHTD.device, query_CHTD.dtype)


def multiplies_by_onednn(device: torch.device, dtype: torch.dtype | None) -> bool:
    """Whether products on this device, of this dtype or in lower precision than that, are compiled by their shapes."""
    lower = dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    return device.type == "cpu" and (lower or torch.get_float32_matmul_precision() != "highest")


def _by_scores(
    query_CHTD: Tensor,
    key_CHTD: Tensor,
    value_CHTD: Tensor,
    mask_TT: Tensor,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    s_aux: Tensor | None,
) -> Tensor:
    """Attention in plain products, [C, H, T, D]; on a CPU in float32: bfloat16 is no faster there, and less exact."""
    count, heads, length, size = query_CHTD.shape
    query, key, value = (x.flatten(0, 1) for x in (query_CHTD, key_CHTD, value_CHTD))  # [C H, T, D]
    if query.device.type == "cpu":
        query, key, value = query.float(), key.float(), value.float()
    scale = size**-0.5 if scaling is None else scaling
    bias_TT = torch.zeros_like(mask_TT, dtype=query.dtype).masked_fill_(~mask_TT, -math.inf)
    with torch.autocast(query.device.type, enabled=False):
        if softcap is None:
            scores = torch.baddbmm(bias_TT.expand(len(query), length, length), query, key.mT, alpha=scale)
        else:
            scores = softcap * torch.tanh(query @ key.mT * (scale / softcap)) + bias_TT
        if s_aux is not None:
            sinks = s_aux.to(scores.dtype)[None, :, None].expand(count, heads, length).reshape(-1, length, 1)
            scores = torch.cat([scores, sinks], -1)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
        out = F.dropout(weights[..., :length], dropout) @ value
    return out.view(count, heads, *out.shape[1:])


@cache
def _varlen_function() -> tuple[Callable[..., Any] | None, bool]:
    """torch's attention over sequences of several lengths, if it has windows, and whether it shares keys itself.

    It is there on every platform, but computes only where torch was built with FlashAttention.
    """
    from torch.nn.attention.varlen import varlen_attn

    parameters = inspect.signature(varlen_attn).parameters
    works = "window_size" in parameters and torch.backends.cuda.is_flash_attention_available()
    return (varlen_attn if works else None), "enable_gqa" in parameters


def _varlen(
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> Tensor | None:
    """All segments in one kernel, [1, N, H, D]; None where it cannot compute them."""
    function, shares_keys = _varlen_function()
    size, device = query_1HND.shape[-1], query_1HND.device
    fits = query_1HND.dtype.itemsize == 2 and size == value_1HND.shape[-1] <= 256 and size % 8 == 0
    if function is None or not fits or device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    query, key, value = (x[0].transpose(0, 1) for x in (query_1HND, key_1HND, value_1HND))
    groups, options = query.shape[1] // key.shape[1], {}
    if groups > 1 and shares_keys:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    longest = max(segments.lengths)
    left = -1 if window is None else window - 1
    out: Tensor = function(
        query, key, value, segments.bounds, segments.bounds, longest, longest,
        scale=scaling, window_size=(left, 0), **options,
    )  # fmt: skip
    return out[None]
