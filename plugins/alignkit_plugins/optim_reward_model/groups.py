"""Preference pairs as training groups: the texts of one ranking are encoded once and stay together.

Pairs of one ranking share texts; spread over batches they would be seen several times an epoch and overfit (Ouyang et
al. 2022, section 3.5).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from alignkit.errors import UserError
from alignkit.records import Content, PreferencePair

EncodeRow = Callable[[Content, Content], list[int]]


@dataclass
class Group:
    """Distinct texts of a prompt, and pairs between them as (chosen index, rejected index, p, margin, weight)."""

    rows: list[list[int]] = field(default_factory=list)
    pairs: list[tuple[int, int, float, float, float]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Real tokens of all texts."""
        return sum(len(r) for r in self.rows)


@dataclass(frozen=True)
class Grouped:
    """All groups, their pairs, and how many other pairs had a side that was too long."""

    groups: list[Group]
    pairs: list[PreferencePair]
    dropped: int


def make_groups(
    pairs: Iterable[PreferencePair], encode: EncodeRow, max_length: int, too_long: str, name: str
) -> Grouped:
    """Group pairs by their `group`; a pair without one is a group of its own."""
    named: dict[str, tuple[Group, dict[tuple[Content, Content], int]]] = {}
    kept: list[PreferencePair] = []
    dropped = 0
    for number, pair in enumerate(pairs, 1):
        key = pair.group or f"#{number}"
        group, index = named.setdefault(key, (Group(), {}))
        sides = []
        for completion in (pair.chosen, pair.rejected):
            if (pair.prompt, completion) not in index:
                index[pair.prompt, completion] = len(group.rows)
                group.rows.append(encode(pair.prompt, completion))
            sides.append(index[pair.prompt, completion])
        longest = max(len(group.rows[i]) for i in sides)
        if longest > max_length:
            if too_long == "error":
                raise UserError(
                    f"{longest} tokens are more than max_length {max_length}",
                    where=f"{name}:{number}",
                    hint="raise max_length, or set too_long: drop",
                )
            dropped += 1
            continue
        group.pairs.append((sides[0], sides[1], pair.p, pair.margin, pair.weight))
        kept.append(pair)
    return Grouped([_used(group) for group, _ in named.values() if group.pairs], kept, dropped)


def _used(group: Group) -> Group:
    """Without the texts that only dropped pairs had."""
    keep = sorted({i for pair in group.pairs for i in pair[:2]})
    new = {old: i for i, old in enumerate(keep)}
    return Group([group.rows[i] for i in keep], [(new[a], new[b], p, m, w) for a, b, p, m, w in group.pairs])


def micro_groups(groups: Sequence[Group], max_tokens: int) -> Iterator[list[int]]:
    """Index lists sorted by longest text, each with at most `max_tokens` padded tokens (at least one group)."""
    longest = [max(len(r) for r in g.rows) for g in groups]
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


def flatten(groups: Sequence[Group]) -> tuple[list[list[int]], list[tuple[int, int, float, float, float]]]:
    """Rows of several groups in one list, pairs renumbered to match."""
    rows: list[list[int]] = []
    pairs: list[tuple[int, int, float, float, float]] = []
    for group in groups:
        offset = len(rows)
        rows += group.rows
        pairs += [(a + offset, b + offset, p, m, w) for a, b, p, m, w in group.pairs]
    return rows, pairs
