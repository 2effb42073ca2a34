"""Where the real tokens of a batch lie in one row, and how their hidden states get back to their places."""

from dataclasses import dataclass, field
from itertools import groupby, pairwise

import torch
from torch import Tensor

from alignkit.batches import TokenBatch

# Where oneDNN computes, the lengths of segments and of the row are multiples of these.
SLOT, ROW = 16, 64


@dataclass
class Segments:
    """Lengths of the sequences in a row, in order, and how often attention was asked for."""

    lengths: tuple[int, ...]
    device: torch.device
    calls: int = 0
    _bounds: Tensor | None = field(default=None, repr=False)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Neighbours of one length together: how many they are, and their length."""
        return [(len(list(same)), length) for length, same in groupby(self.lengths)]

    @property
    def bounds(self) -> Tensor:
        """Where each starts, and the end; int32."""
        if self._bounds is None:
            ends = torch.tensor([0, *self.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self._bounds = ends.to(self.device, non_blocking=True)
        return self._bounds


def segments_of(batch: TokenBatch) -> Segments:
    """The sequences of a batch: its rows, or the documents in packed rows."""
    starts_BT = batch.positions_BT == 0
    starts_BT[:, 0] = True  # whatever its positions are, a row never joins the one before it
    starts = starts_BT[batch.mask_BT].nonzero()[:, 0].tolist()
    ends = [*starts, int(batch.mask_BT.sum())]
    return Segments(tuple(end - start for start, end in pairwise(ends)), batch.ids_BT.device)


class Layout:
    """Where the tokens of a batch lie in the one row, and how its hidden states get back to their places.

    With `rounded`, each of `segments` and the row are made a little longer, to one of few lengths, by repeating a token
    behind the segment's last, which nothing sees. oneDNN needs it: it compiles a kernel for each new shape of a product
    and keeps it, about half a megabyte, for as long as the process runs.
    """

    def __init__(self, batch: TokenBatch, segments: Segments, rounded: bool) -> None:
        self.batch = batch
        self.real_N = batch.mask_BT.flatten().nonzero()[:, 0]
        self.inside_N: Tensor | None = None  # places in the row with a token of the batch, if there are others
        self.taken_N = self.real_N  # places in the batch of what is in the row
        if rounded:
            self._round(segments)

    def _round(self, segments: Segments) -> None:
        lengths = segments.lengths
        slots = [_round_up(n, SLOT) for n in lengths]
        rest = _round_up(sum(slots), ROW) - sum(slots)
        index, slot = torch.tensor(lengths), torch.tensor(slots)
        start_N, last_N, offset_N = (
            x.repeat_interleave(slot) for x in (index.cumsum(0) - index, index - 1, slot.cumsum(0) - slot)
        )
        offset_N = torch.arange(len(offset_N)) - offset_N
        taken_N = torch.cat([start_N + offset_N.minimum(last_N), torch.zeros(rest, dtype=torch.long)])
        device = self.real_N.device
        self.inside_N = (offset_N <= last_N).nonzero()[:, 0].to(device)
        self.taken_N = self.real_N[taken_N.to(device)]
        segments.lengths = (*slots, rest) if rest else tuple(slots)

    @property
    def ids_1N(self) -> Tensor:
        """The row."""
        return self.batch.ids_BT.flatten()[self.taken_N][None]

    @property
    def positions_1N(self) -> Tensor:
        """Position of each of its tokens in its sequence."""
        return self.batch.positions_BT.flatten()[self.taken_N][None]

    def put_back(self, states_1NH: Tensor) -> Tensor:
        """States at the places of their tokens, [B, T, H]; zero at the padding."""
        states_NH = states_1NH[0] if self.inside_N is None else states_1NH[0].index_select(0, self.inside_N)
        shape = self.batch.mask_BT.shape
        out = states_NH.new_zeros(shape.numel(), states_NH.shape[-1])
        return out.index_copy(0, self.real_N, states_NH).view(*shape, -1)


def _round_up(count: int, step: int) -> int:
    """To a multiple of `step`, or of a larger power of two that adds at most a thirty-second."""
    step = max(step, 1 << max(0, count.bit_length() - 6))
    return -(-count // step) * step
