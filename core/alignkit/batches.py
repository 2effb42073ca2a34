"""Tensors that move through training: padded token batches and rollouts.

Shape suffixes: B rows, T tokens, N trainable tokens of a batch in row-major order, H hidden, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignkit.records import FinishReason, Prompt


class Head(NamedTuple):
    """The vocabulary projection: logits = softcap(scale * (h @ weight.T + bias))."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0


class Row(NamedTuple):
    """One sequence: `target[t]` says that the log-prob of token t is wanted (never at t = 0).

    `positions` restart at 0 for each document of a packed row; None means 0, 1, 2, …
    """

    ids: Sequence[int]
    target: Sequence[bool]
    positions: Sequence[int] | None = None


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded on the right, with explicit masks: the pad token may equal the end token."""

    ids_BT: Tensor
    mask_BT: Tensor
    target_BT: Tensor
    positions_BT: Tensor

    @classmethod
    def from_rows(cls, rows: Sequence[Row], pad_id: int, device: torch.device | str = "cpu") -> "TokenBatch":
        """Pad `rows` to the longest. Raises ValueError for an empty row or a target at position 0."""
        lengths = np.array([len(row.ids) for row in rows])
        shape = len(rows), int(lengths.max())
        ids, target = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        mask = np.arange(shape[1]) < lengths[:, None]
        positions = np.tile(np.arange(shape[1], dtype=np.int64), (len(rows), 1))
        for b, row in enumerate(rows):
            n = len(row.ids)
            if n == 0 or len(row.target) != n or row.target[0]:
                raise ValueError("a row needs at least one token, one target flag per token and none at position 0")
            ids[b, :n], target[b, :n] = row.ids, row.target
            if row.positions is not None:
                # Padding becomes documents of one token each, so that it never joins the last document.
                positions[b, :n], positions[b, n:] = row.positions, 0
        return cls(*(_moved(torch.from_numpy(x), torch.device(device)) for x in (ids, mask, target, positions)))

    @property
    def targets_N(self) -> Tensor:
        """Token ids whose log-prob is wanted, row-major."""
        return self.ids_BT[self.target_BT]

    @property
    def tokens(self) -> int:
        """Trainable tokens."""
        return int(self.target_BT.sum())

    def select(self, hidden_BTH: Tensor) -> Tensor:
        """Hidden states that predict the target tokens: [B, T, …] -> [N, …] (position t - 1 predicts token t)."""
        return hidden_BTH[:, :-1][self.target_BT[:, 1:]]


@dataclass(frozen=True)
class Rollout:
    """Completions sampled from one policy at one temperature.

    `completion_ids[b]` ends with the first stop token (kept) or at the length limit. Token ids are what was sampled
    and are never re-tokenised. `sampler_logp_BT` are log-probs of the distribution that was drawn from (after
    temperature, top-k, top-p and whatever else the sampler leaves out), zero behind the end; None from a sampler that
    gives none. `kept_BTK` are the ids that could be drawn at each token, padded with -1; None where the whole
    vocabulary could. Training renormalises over these ids, whatever `Sampling` says. `tokenizer_id` tells a reward
    source whether it may read the ids; with another tokenizer it reads `texts`.

    `text_only`: there are no ids, of prompts and of completions, nor log-probs; `tokenizer_id` is empty, so that
    sources read `texts`. Only a `capabilities.TextOnly` sampler returns such a rollout.
    """

    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    completion_ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    finish: tuple[FinishReason, ...]
    group_B: Tensor
    temperature: float
    tokenizer_id: str
    sampler_logp_BT: Tensor | None = None
    kept_BTK: Tensor | None = None
    text_only: bool = False

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def mask_BT(self) -> Tensor:
        """True for each completion token, [B, T] with T the longest completion."""
        lengths = torch.tensor([len(c) for c in self.completion_ids])
        return torch.arange(int(lengths.max()))[None, :] < lengths[:, None]

    @property
    def stopped_B(self) -> Tensor:
        """True where the completion ends with a stop token."""
        return torch.tensor([f == "stop" for f in self.finish])

    def value_mask_BT(self, past_stop: bool) -> Tensor:
        """`mask_BT`; with `past_stop` one column wider and also True right behind each stop token."""
        if not past_stop:
            return self.mask_BT
        mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1))
        return mask_BT.scatter(1, mask_BT.long().sum(-1, keepdim=True), self.stopped_B[:, None])

    def kept(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """`kept_BTK` of the tokens of some completions, row-major, [N, K]."""
        if self.kept_BTK is None:
            return None
        chosen = list(indices)
        return self.kept_BTK[chosen][self.mask_BT[chosen]].to(device)

    def rows(self, indices: Sequence[int] | None = None, past_stop: bool = False) -> list[Row]:
        """Prompt + completion as training rows, targets on the completion.

        With `past_stop`, completions that stopped get one more target, so that the critic values the state behind the
        stop token. Which id stands there does not matter: a target is read from the states before it.
        """
        chosen = range(len(self)) if indices is None else indices
        extra = [int(past_stop and f == "stop") for f in self.finish]
        return [
            Row(
                self.prompt_ids[b] + self.completion_ids[b] + self.completion_ids[b][-1:] * extra[b],
                [False] * len(self.prompt_ids[b]) + [True] * (len(self.completion_ids[b]) + extra[b]),
            )
            for b in chosen
        ]


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """To a GPU through pinned memory, so that the processor need not wait for what the GPU has in hand."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def scatter(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """[N] row-major values back to [B, T], zero elsewhere."""
    out_BT = torch.zeros(mask_BT.shape, dtype=values_N.dtype, device=values_N.device)
    out_BT[mask_BT] = values_N
    return out_BT
