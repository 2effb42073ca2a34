"""Preference pairs as training groups: the texts of one ranking are encoded once and stay together.

Pairs of one ranking share texts; spread over batches they would be seen several times an epoch and overfit (Ouyang et
al. 2022, section 3.5).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from alignkit.batches import Row
from alignkit.errors import UserError
from alignkit.protocols import FitTask
from alignkit.records import Content, PreferencePair, plain_text
from alignkit.training.batching import check_positions, limit_named, longest_kept
from alignkit.training.config import PairTrainingConfig

EncodeRow = Callable[[Content, Content], Row]
# Index of the chosen and of the rejected text, p, margin, weight.
IndexPair = tuple[int, int, float, float, float]


@dataclass
class Group:
    """Distinct texts of a prompt, and pairs between them as (chosen index, rejected index, p, margin, weight)."""

    rows: list[Row] = field(default_factory=list)
    pairs: list[IndexPair] = field(default_factory=list)


@dataclass(frozen=True)
class Grouped:
    """All groups, their pairs, and how many other pairs had a side that was too long."""

    groups: list[Group]
    pairs: list[PreferencePair]
    dropped: int


class PairColumns(NamedTuple):
    """Pairs as tensors: indices into a batch's texts, probability that `chosen` is better, margin, weight; [P]."""

    chosen_P: Tensor
    rejected_P: Tensor
    p_P: Tensor
    margin_P: Tensor
    weight_P: Tensor

    @classmethod
    def of(cls, pairs: Sequence[IndexPair], device: torch.device) -> Self:
        """Columns of `pairs` on `device`."""
        chosen, rejected, p, margin, weight = zip(*pairs, strict=True)
        index = [torch.tensor(column, device=device) for column in (chosen, rejected)]
        number = [torch.tensor(column, dtype=torch.float32, device=device) for column in (p, margin, weight)]
        return cls(index[0], index[1], number[0], number[1], number[2])


class PairData(NamedTuple):
    """What a stage trains on and what it is measured on; `heldout` may be without groups."""

    train: Grouped
    heldout: Grouped | None

    def counts(self) -> dict[str, Any]:
        """Entries for the summary."""
        counts = {
            "pairs": len(self.train.pairs),
            "groups": len(self.train.groups),
            "dropped_too_long": self.train.dropped,
        }
        if self.heldout is not None:
            counts["heldout_pairs"] = len(self.heldout.pairs)
            counts["heldout_dropped_too_long"] = self.heldout.dropped
        return counts


def load_pairs(task: FitTask, encode: EncodeRow, config: PairTrainingConfig, max_positions: int | None) -> PairData:
    """The task's pairs in groups. Raises UserError if none is left, or a row that may not be dropped does not fit."""
    most = longest_kept(config.max_length, config.too_long, max_positions)

    def grouped(pairs: Any) -> Grouped:
        return make_groups(pairs, encode, most, config.too_long, str(pairs.path))

    if len(task.data) == 0:
        raise UserError("there is no preference pair", where=task.data.path)
    train = grouped(task.data)
    if not train.groups:
        limit, hint = limit_named(most, config.max_length)
        raise UserError(
            f"no pair fits {limit}: all {train.dropped} have a longer side", where=task.data.path, hint=hint
        )
    heldout = grouped(task.eval_data) if task.eval_data else None
    everything = [*train.groups, *(heldout.groups if heldout else [])]
    check_positions(max(len(row.ids) for group in everything for row in group.rows), max_positions)
    return PairData(train, heldout)


def make_groups(
    pairs: Iterable[PreferencePair], encode: EncodeRow, max_length: int, too_long: str, name: str
) -> Grouped:
    """Group pairs by their `group`; a pair without one is a group of its own."""
    named: dict[str | int, tuple[Group, dict[tuple[Content, Content], int]]] = {}
    kept: list[PreferencePair] = []
    dropped = 0
    for number, pair in enumerate(pairs, 1):
        group, index = named.setdefault(pair.group or number, (Group(), {}))
        sides = []
        for completion in (pair.chosen, pair.rejected):
            if (pair.prompt, completion) not in index:
                index[pair.prompt, completion] = len(group.rows)
                group.rows.append(encode(pair.prompt, completion))
            sides.append(index[pair.prompt, completion])
        if not fits(max(len(group.rows[i].ids) for i in sides), max_length, too_long, f"{name}:{number}"):
            dropped += 1
            continue
        group.pairs.append((sides[0], sides[1], pair.p, pair.margin, pair.weight))
        kept.append(pair)
    return Grouped([_used(group) for group, _ in named.values() if group.pairs], kept, dropped)


def fits(length: int, max_length: int, too_long: str, where: str) -> bool:
    """Whether a row may stay. Raises UserError for one that is too long with `too_long: error`."""
    if length <= max_length:
        return True
    if too_long == "error":
        raise UserError(
            f"{length} tokens are more than max_length {max_length}",
            where=where,
            hint="raise max_length, or set too_long: drop",
        )
    return False


def _used(group: Group) -> Group:
    """Without the texts that only dropped pairs had."""
    keep = sorted({i for pair in group.pairs for i in pair[:2]})
    new = {old: i for i, old in enumerate(keep)}
    return Group([group.rows[i] for i in keep], [(new[a], new[b], p, m, w) for a, b, p, m, w in group.pairs])


class HasRows(Protocol):
    """Texts that belong into one forward pass."""

    @property
    def rows(self) -> Sequence[Row]:
        """The texts."""
        ...


def micro_groups(groups: Sequence[HasRows], max_tokens: int) -> Iterator[list[int]]:
    """Index lists sorted by longest text, each with at most `max_tokens` padded tokens (at least one group)."""
    longest = [max(len(r.ids) for r in g.rows) for g in groups]
    current: list[int] = []
    rows = 0
    for i in sorted(range(len(groups)), key=lambda i: longest[i]):
        if current and longest[i] * (rows + len(groups[i].rows)) > max_tokens:
            yield current
            current, rows = [], 0
        current.append(i)
        rows += len(groups[i].rows)
    if current:
        yield current


def flatten(groups: Sequence[Group]) -> tuple[list[Row], list[IndexPair]]:
    """Rows of several groups in one list, pairs renumbered to match."""
    rows: list[Row] = []
    pairs: list[IndexPair] = []
    for group in groups:
        offset = len(rows)
        rows += group.rows
        pairs += [(a + offset, b + offset, p, m, w) for a, b, p, m, w in group.pairs]
    return rows, pairs


def total_weight(groups: Sequence[Group]) -> float:
    """Sum of all pairs' weights, the denominator of a batch's loss. Raises UserError if it is 0."""
    total = sum(w for g in groups for *_, w in g.pairs)
    if total <= 0:
        raise UserError("every pair of a batch has weight 0", hint="remove pairs without weight")
    return total


def decided(pairs: PairColumns) -> tuple[Tensor, Tensor]:
    """Indices of the preferred and of the other text of each pair that is no tie (p is not 0.5), [D] each."""
    keep_P = pairs.p_P != 0.5
    first_D = (pairs.p_P > 0.5)[keep_P]
    chosen_D, rejected_D = pairs.chosen_P[keep_P], pairs.rejected_P[keep_P]
    return torch.where(first_D, chosen_D, rejected_D), torch.where(first_D, rejected_D, chosen_D)


def points(difference_D: Tensor) -> Tensor:
    """1 where the preferred side is ahead, 1/2 where both are equal, else 0; [D]."""
    return (difference_D > 0).float() + 0.5 * (difference_D == 0).float()


def longest_baseline(pairs: Iterable[PreferencePair]) -> float:
    """Accuracy of "the longer answer (in characters) is better" on the same pairs; equal lengths count half."""
    found: list[float] = []
    for pair in pairs:
        if pair.p == 0.5:
            continue
        chosen, rejected = len(plain_text(pair.chosen)), len(plain_text(pair.rejected))
        better, worse = (chosen, rejected) if pair.p > 0.5 else (rejected, chosen)
        found.append(0.5 if better == worse else float(better > worse))
    return sum(found) / len(found) if found else float("nan")
