"""Attention of one new token on a CPU, at the speed of memory.

With one query per row, scores and outputs are weighted sums of the rows of a table: of the keys' components with the
query as weights, and of the values with the probabilities as weights. `embedding_bag` adds up such rows while it
prefetches the next; torch's attention kernels are made for many queries and take three times as long.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def runs_on(device: torch.device) -> bool:
    """Whether tables are the faster layout there: x86, where torch has those programs."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX")


@contextmanager
def attention_over_tables() -> Iterator[None]:
    """Inside, transformers' `sdpa` hands one new token over keys stored as a table to `TableAttention`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if ALL_ATTENTION_FUNCTIONS["sdpa"] is not sdpa_attention_forward:  # somebody's own, or ours further out
        yield
        return
    ALL_ATTENTION_FUNCTIONS["sdpa"] = TableAttention(sdpa_attention_forward)
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


class TableAttention:
    """Has the signature of transformers' attention functions; whatever else is asked goes to `other`."""

    def __init__(self, other: Any) -> None:
        self.other = other
        self._indices: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Output [B, 1, H, D] for `query` [B, H, 1, D], `key` and `value` [B, G, S, D], H a multiple of G."""
        plain = all(options.get(name) is None for name in ("position_bias", "softcap", "s_aux", "cache"))
        if query.shape[2] != 1 or dropout or not plain or not is_table(key, value):
            with _by_mkl(query.device):
                found: tuple[Tensor, Tensor | None] = self.other(
                    module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
                )
            return found
        B, H, _, D = query.shape
        scores_BHS = self._scores(query, key) * (D**-0.5 if scaling is None else scaling)
        if attention_mask is not None:
            mask = attention_mask[:, :, 0]
            hidden = mask.dtype == torch.bool
            scores_BHS = scores_BHS.masked_fill(~mask, float("-inf")) if hidden else scores_BHS + mask
        probs_BHS = torch.softmax(scores_BHS, dim=-1).to(value.dtype)
        return self._weighted(probs_BHS, value).view(B, 1, H, -1), None

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Query times keys, [B, H, S], float32: rows of the table are one component of all keys of a head."""
        B, H, _, D = query.shape
        G, S = key.shape[1:3]
        capacity = key.stride(3)
        table = key.as_strided((B * G * D, capacity), (capacity, 1))
        weights = query.to(key.dtype).reshape(-1)
        scores = _sums(*self._bags(table, B, H, G, D, D), weights)
        return scores.view(B, H, capacity)[:, :, :S].float()

    def _weighted(self, probs_BHS: Tensor, value: Tensor) -> Tensor:
        B, H, S = probs_BHS.shape
        G, D = value.shape[1], value.shape[3]
        capacity = value.stride(1) // D
        table = value.as_strided((B * G * capacity, D), (D, 1))
        return _sums(*self._bags(table, B, H, G, capacity, S), probs_BHS.reshape(-1))

    def _bags(self, table: Tensor, B: int, H: int, G: int, stride: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row numbers and where each bag begins: bag (b, h) has the first `rows` of `stride` rows of its key head."""
        shape = (B, H, G, stride, rows)
        if shape not in self._indices:
            if len(self._indices) > 8:  # the length grows with each token: older ones never come again
                self._indices.clear()
            head_N = torch.arange(B * G, dtype=torch.int32).repeat_interleave(H // G)
            index = (head_N[:, None] * stride + torch.arange(rows, dtype=torch.int32)).view(-1)
            self._indices[shape] = index, torch.arange(B * H, dtype=torch.int32) * rows
        index, offset = self._indices[shape]
        return index, table, offset


def _sums(index: Tensor, table: Tensor, offset: Tensor, weights: Tensor) -> Tensor:
    """`F.embedding_bag` in mode "sum", without its checks."""
    return torch.embedding_bag(table, index, offset, False, 0, False, weights)[0]


@contextmanager
def _by_mkl(device: torch.device) -> Iterator[None]:
    """Inside, torch's attention multiplies its small blocks by MKL.

    A float32 step lets oneDNN multiply, which prepares each of these products anew and takes eight times as long.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cpu" and before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if torch.get_float32_matmul_precision() != before:
            torch.set_float32_matmul_precision(before)


def is_table(key: Tensor, value: Tensor) -> bool:
    """Whether these lie in memory like a `cache.GrowingLayer`'s keys [B, G, D, room] and values [B, G, room, D].

    Told by their strides: what a model has made of keys or values on their way here is a table too, or goes to torch.
    """
    B, G, S, D = key.shape
    width = value.shape[3]
    room_k, room_v = key.stride(3), value.stride(1) // width
    if min(room_k, room_v) < S or room_k == 1 or B * G * max(D, room_v) >= 2**31:
        return False
    return (
        key.storage_offset() == value.storage_offset() == 0
        and key.stride() == (G * D * room_k, D * room_k, 1, room_k)
        and value.stride() == (G * room_v * width, room_v * width, width, 1)
        and key.untyped_storage().nbytes() >= B * G * D * room_k * key.itemsize
        and value.untyped_storage().nbytes() >= B * G * width * room_v * value.itemsize
    )
