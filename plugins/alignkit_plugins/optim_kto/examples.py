"""What KTO learns from: completions with the weights by which they are good and bad, and mismatched pairs of them."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alignkit.batches import Row
from alignkit.errors import UserError
from alignkit.protocols import FitTask
from alignkit.records import LabelledCompletion
from alignkit.training.batching import check_positions, limit_named, longest_kept
from alignkit.training.pairs import EncodeRow, Group, Grouped, fits, load_pairs
from alignkit_plugins.optim_kto.config import KTOConfig


@dataclass
class LabelGroup:
    """Completions that stay in one batch element: one labelled completion, or the texts of a ranking."""

    rows: list[Row] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    bad: list[float] = field(default_factory=list)


class Examples(NamedTuple):
    """Training and held-out groups, counts for the summary, and the held-out pairs if there are pairs."""

    train: list[LabelGroup]
    heldout: list[LabelGroup]
    counts: dict[str, Any]
    heldout_pairs: Grouped | None


def load_examples(task: FitTask, encode: EncodeRow, config: KTOConfig, max_positions: int | None) -> Examples:
    """The task's records. Raises UserError if none is left, or a row that may not be dropped does not fit."""
    if config.reads == "preferences":
        data = load_pairs(task, encode, config, max_positions)
        heldout = [from_pairs(group) for group in data.heldout.groups] if data.heldout else []
        train = [from_pairs(group) for group in data.train.groups]
        return Examples(train, heldout, data.counts() | _masses(train), data.heldout)
    if len(task.data) == 0:
        raise UserError("there is no labelled completion", where=task.data.path)
    most = longest_kept(config.max_length, config.too_long, max_positions)
    train, dropped = from_labels(task.data, encode, most, config.too_long, str(task.data.path))
    if not train:
        limit, hint = limit_named(most, config.max_length)
        raise UserError(f"all {dropped} rows are longer than {limit}", where=task.data.path, hint=hint)
    counts: dict[str, Any] = {"labels": len(train), "dropped_too_long": dropped, **_masses(train)}
    heldout = []
    if task.eval_data:
        heldout, dropped = from_labels(task.eval_data, encode, most, config.too_long, str(task.eval_data.path))
        counts |= {"heldout_labels": len(heldout), "heldout_dropped_too_long": dropped}
    check_positions(max(len(row.ids) for group in (*train, *heldout) for row in group.rows), max_positions)
    return Examples(train, heldout, counts, None)


def _masses(groups: Sequence[LabelGroup]) -> dict[str, float]:
    """Sums of weights: the paper wants the desirable and undesirable weights to balance them."""
    return {"good": sum(sum(g.good) for g in groups), "bad": sum(sum(g.bad) for g in groups)}


def from_labels(
    records: Iterable[LabelledCompletion], encode: EncodeRow, max_length: int, too_long: str, name: str
) -> tuple[list[LabelGroup], int]:
    """One group per record, and how many records were too long."""
    groups: list[LabelGroup] = []
    dropped = 0
    for number, record in enumerate(records, 1):
        row = encode(record.prompt, record.completion)
        if fits(len(row.ids), max_length, too_long, f"{name}:{number}"):
            groups.append(LabelGroup([row], [record.weight * record.label], [record.weight * (not record.label)]))
        else:
            dropped += 1
    return groups, dropped


def from_pairs(group: Group) -> LabelGroup:
    """Each text once: with the weight of the pairs it wins as good, of those it loses as bad.

    A pair with p < 1 counts with p one way and with 1 - p the other way. A text in the middle of a ranking is both.
    """
    good, bad = [0.0] * len(group.rows), [0.0] * len(group.rows)
    for chosen, rejected, p, _, weight in group.pairs:
        for winner, loser, share in ((chosen, rejected, p), (rejected, chosen, 1 - p)):
            good[winner] += share * weight
            bad[loser] += share * weight
    return LabelGroup(group.rows, good, bad)


def mismatched_rows(rows: Sequence[Row], max_length: int, seed: int) -> tuple[list[Row], int]:
    """For each row its prompt with a completion of another prompt, and how many of those were cut to `max_length`.

    The paper takes the completion of the next prompt in the batch. Here the prompts of the whole data set are put in a
    random order once: so the reference's log-probs can be known beforehand, and the loss does not depend on the order
    of a batch.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_prompt[tuple(row.ids[: _start(row)])].append(i)
    if len(by_prompt) < 2:
        raise UserError(
            "all completions have the same prompt, and KTO's reference point needs completions of other prompts",
            where="optimizer_stage.reference_point",
            hint="set reference_point: zero",
        )
    prompts = sorted(by_prompt)
    random.Random(seed).shuffle(prompts)
    found, cut = list(rows), 0
    for prompt, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        others = by_prompt[other]
        for n, i in enumerate(by_prompt[prompt]):
            partner = rows[others[n % len(others)]]
            completion = list(partner.ids[_start(partner) :])
            room = max_length - len(prompt)
            cut += len(completion) > room
            completion = completion[:room]
            found[i] = Row([*prompt, *completion], [False] * len(prompt) + [True] * len(completion))
    return found, cut


def _start(row: Row) -> int:
    """Where the completion begins."""
    return list(row.target).index(True)
