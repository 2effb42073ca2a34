"""One set of judgements held against another one: a judge against people."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from alignkit.agreement import (
    Item,
    Share,
    Votes,
    category,
    current,
    lengths,
    newest,
    preference_votes,
    rating_votes,
    share,
)
from alignkit.feedback import stated_preferences
from alignkit.records import Judgement, Task

ECE_BINS = 10
_CERTAIN = (0.0, 0.5, 1.0)


class Disagreement(NamedTuple):
    """One pair of candidates with the probabilities that `a` is better, and how many judged it."""

    task_id: str
    a: str
    b: str
    p_first: float
    p_second: float
    votes_first: int
    votes_second: int


class Comparison(NamedTuple):
    """A second set of judgements held against a first one, over the pairs of candidates that both judged.

    Two ratings of one annotator on a task compare their candidates as well; equal ones are a tie.
    A set's verdict on a pair is the category most of its annotators chose, or the side of their mean where no category
    has most. `accuracy`: where both verdicts name a side, how often it is the same. `same`: how often the verdicts are
    the same, ties counted as an answer; `kappa` is Cohen's for these three categories. `ece`: how far the second's
    probability of its verdict is from its accuracy, mean over ten bins weighted by size; None when none of
    its judgements has a probability of its own: the share of several people's votes is none. `length_first` and
    `length_second`: how often an annotator's preference was for the longer text.
    `longest`: what always naming the longer text would have for an accuracy. `swap_consistency`: how often the second's
    answer stayed the same with the candidates shown the other way round. `failures`: the second's judgements without an
    answer, by status. Both are of judgements on the given tasks alone.
    """

    items: int
    accuracy: Share | None
    same: Share | None
    kappa: float | None
    ece: float | None
    ties_first: int
    ties_second: int
    length_first: Share | None
    length_second: Share | None
    longest: Share | None
    swap_consistency: Share | None
    failures: dict[str, int]
    only_first: int
    only_second: int
    disagreements: list[Disagreement]


def compare(
    tasks: Sequence[Task], first: Iterable[Judgement], second: Iterable[Judgement], *, strongest: int = 20
) -> Comparison:
    """Hold `second` (a judge) against `first` (people); see `Comparison`. `strongest` disagreements are listed."""
    known = {task.id for task in tasks}
    second = [j for j in second if j.task_id in known]
    one, two = comparing_votes(tasks, first), comparing_votes(tasks, second)
    common = [item for item in one if item in two]
    verdicts = [(_verdict(one[item]), _verdict(two[item])) for item in common]
    decided = [(a, b) for a, b in verdicts if a != 0.5 and b != 0.5]
    length = lengths(tasks)
    longest = [
        (length[task, a] > length[task, b]) == (verdict == 1.0)
        for (task, a, b), (verdict, _) in zip(common, verdicts, strict=True)
        if verdict != 0.5 and length[task, a] != length[task, b]
    ]
    return Comparison(
        items=len(common),
        accuracy=share(sum(a == b for a, b in decided), len(decided)) if decided else None,
        same=share(sum(a == b for a, b in verdicts), len(verdicts)) if verdicts else None,
        kappa=_kappa(verdicts),
        ece=_calibration_error([(_mean(two[item]), *pair) for item, pair in zip(common, verdicts, strict=True)])
        if _gives_probabilities(second, common)
        else None,
        ties_first=sum(a == 0.5 for a, _ in verdicts),
        ties_second=sum(b == 0.5 for _, b in verdicts),
        length_first=_longer(one, common, length),
        length_second=_longer(two, common, length),
        longest=share(sum(longest), len(longest)) if longest else None,
        swap_consistency=swap_consistency(second),
        failures=dict(Counter(j.status for j in newest(second) if j.status != "ok")),
        only_first=len(one) - len(common),
        only_second=len(two) - len(common),
        disagreements=_disagreements(one, two, common)[:strongest],
    )


def swap_consistency(judgements: Iterable[Judgement]) -> Share | None:
    """Of the judgements whose evidence has both orders, the share that prefers the same candidate in both."""
    asked = [j.evidence for j in current(judgements) if j.evidence is not None]
    both = [(e.p_given, e.p_swapped) for e in asked if e.p_given is not None and e.p_swapped is not None]
    return share(sum(category(a) == category(b) for a, b in both), len(both)) if both else None


def comparing_votes(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Votes:
    """Stated preferences, and those between two ratings of an annotator who stated none."""
    judgements = list(judgements)
    votes, rated = preference_votes(tasks, judgements), rating_votes(tasks, judgements)
    for task in tasks:
        for a, b in combinations((c.id for c in task.candidates), 2):
            first, second = rated.get((task.id, a, ""), {}), rated.get((task.id, b, ""), {})
            for who in first.keys() & second.keys():
                votes.setdefault((task.id, a, b), {}).setdefault(who, category(0.5 + first[who] - second[who]))
    return votes


def _longer(votes: Votes, items: Sequence[Item], length: Mapping[tuple[str, str], int]) -> Share | None:
    found = [
        (length[task, a] > length[task, b]) == (p > 0.5)
        for task, a, b in items
        for p in votes[task, a, b].values()
        if category(p) != 0.5 and length[task, a] != length[task, b]
    ]
    return share(sum(found), len(found)) if found else None


def _mean(votes: Mapping[str, float]) -> float:
    return sum(votes.values()) / len(votes)


def _verdict(votes: Mapping[str, float]) -> float:
    counts = Counter(category(p) for p in votes.values()).most_common()
    if len(counts) == 1 or counts[0][1] > counts[1][1]:
        return counts[0][0]
    return category(_mean(votes))


def _kappa(verdicts: Sequence[tuple[float, float]]) -> float | None:
    """None where both sets gave one and the same answer throughout: chance would agree as much."""
    if len({category for pair in verdicts for category in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    # Categories, not numbers: sklearn takes 0.5 for a continuous target.
    words = {1.0: "first", 0.0: "second", 0.5: "tie"}
    return float(cohen_kappa_score([words[a] for a, _ in verdicts], [words[b] for _, b in verdicts]))


def _gives_probabilities(judgements: Iterable[Judgement], items: Iterable[Item]) -> bool:
    """Whether a judgement on one of the items is less than certain, in each order if it was asked in both."""
    wanted = {(task, frozenset((a, b))) for task, a, b in items}
    for judgement in current(judgements):
        evidence = judgement.evidence
        orders = [] if evidence is None else [evidence.p_given, evidence.p_swapped]
        for a, b, p in stated_preferences(judgement):
            said = [p] if None in orders or not orders else orders
            if (judgement.task_id, frozenset((a, b))) in wanted and any(q not in _CERTAIN for q in said):
                return True
    return False


def _calibration_error(judged: Sequence[tuple[float, float, float]]) -> float | None:
    """Expected calibration error (Naeini et al. 2015) over (p, verdict of the first, of the second), both decided."""
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for p, first, second in judged:
        if first != 0.5 and second != 0.5:
            confidence = p if second == 1.0 else 1 - p
            bins[min(int(confidence * ECE_BINS), ECE_BINS - 1)].append((confidence, first == second))
    total = sum(map(len, bins.values()))
    gaps = [abs(sum(c for c, _ in found) - sum(hit for _, hit in found)) for found in bins.values()]
    return sum(gaps) / total if total else None


def _disagreements(one: Votes, two: Votes, common: Sequence[Item]) -> list[Disagreement]:
    """Pairs on which the sets differ by side or tie, the largest distance first, then by how many judged."""
    found = [
        Disagreement(*item, _mean(one[item]), _mean(two[item]), len(one[item]), len(two[item]))
        for item in common
        if _verdict(one[item]) != _verdict(two[item])
    ]
    return sorted(found, key=lambda d: (-abs(d.p_first - d.p_second), -d.votes_first, d.task_id, d.a, d.b))
