"""How far annotators agree with each other, with known answers, and with a second set of judgements.

Pure functions over tasks and judgements. Judgements that failed, were skipped or superseded, or whose task is not
given, say nothing. An annotator who judged the same thing twice counts once, with the mean of what he said. A
preference (of a ranking or a pairwise judgement) is about two candidates, in the task's order, and falls into one of
three categories: the first is better, the second is, or neither.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from alignkit.feedback import stated_preferences, superseded_ids
from alignkit.records import Annotator, Binary, Judgement, Rating, Task

# (task id, candidate id, other candidate id or "") -> annotator id -> what he said: the probability that the first is
# better, a rating brought to 0..1, or 1 for good.
Item = tuple[str, str, str]
Votes = dict[Item, dict[str, float]]

CONFIDENCE = 0.95
# How far a rating may be from the known one, as a share of the scale: less than a step of a scale up to 1-10.
RATING_TOLERANCE = 0.1
ECE_BINS = 10
# Two sums of the same votes in another order.
_EQUAL = 1e-9


class Share(NamedTuple):
    """A share of `n` cases with its 95 % interval (Wilson 1927), which stays inside 0..1 and holds for small n."""

    share: float
    low: float
    high: float
    n: int


class Agreement(NamedTuple):
    """Among annotators of the same items, those that at least two of them judged.

    `raw` is the share of agreeing pairs of annotators, `comparisons` the number of such pairs. `alpha` is
    Krippendorff's: 1 is perfect, 0 what chance would give; None also where every answer is the same, for then chance
    explains everything. `annotators` counts all of them, also those who share no item with another.
    """

    raw: float | None
    alpha: float | None
    items: int
    comparisons: int
    annotators: int


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

    A set's verdict on a pair is the category most of its annotators chose, or the side of their mean where no category
    has most. `accuracy`: where both verdicts name a side, how often it is the same. `same`: how often the verdicts are
    the same, ties counted as an answer; `kappa` is Cohen's for these three categories. `ece`: how far the second's
    probability of its verdict is from its accuracy, mean over ten bins weighted by size; None when it gave no
    probabilities. `longest`: what always naming the longer text would have for an accuracy. `swap_consistency`: how
    often the second's answer stayed the same with the candidates shown the other way round. `failures`: the
    second's judgements without an answer, by status.
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


def agreement(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> dict[str, Agreement]:
    """By kind of answer: "preference" (three categories), "rating" (interval scale), "binary" (two categories)."""
    judgements = list(judgements)
    found = {
        "preference": _categories(preference_votes(tasks, judgements)),
        "rating": _rating_votes(tasks, judgements),
        "binary": _categories(_binary_votes(tasks, judgements)),
    }
    return {kind: _agreement(votes, kind == "rating") for kind, votes in found.items() if votes}


def gold_accuracy(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> dict[str, Share]:
    """By annotator id: share of right answers among those to tasks with a known one.

    A known ranking or preference counts once for each pair of candidates that the annotator compared too, and a tie is
    right only where it is known. A rating is right within a tenth of the scale. Answers of another kind than the known
    one are not counted.
    """
    gold = [t for t in tasks if t.gold is not None]
    known = [_known_answer(task) for task in gold]
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    judgements = list(judgements)
    for votes_of, tolerance in ((preference_votes, 0.0), (_binary_votes, 0.0), (_rating_votes, RATING_TOLERANCE)):
        said, truth = votes_of(gold, judgements), votes_of(gold, known)
        if tolerance == 0.0:
            said, truth = _categories(said), _categories(truth)
        for item in said.keys() & truth.keys():
            answer = next(iter(truth[item].values()))
            for annotator, vote in said[item].items():
                asked[annotator] += 1
                right[annotator] += abs(vote - answer) <= tolerance + _EQUAL
    return {annotator: share(right[annotator], asked[annotator]) for annotator in sorted(asked)}


def position_preference(judgements: Iterable[Judgement]) -> Share | None:
    """Of two candidates not tied, how often the one shown earlier was preferred; 1/2 if order does not matter."""
    earlier = total = 0
    for judgement in current(judgements):
        place = {id: n for n, id in enumerate(judgement.presented_order)}
        for a, b, p in stated_preferences(judgement):
            if p != 0.5 and a in place and b in place:
                total += 1
                earlier += (place[a] < place[b]) == (p > 0.5)
    return share(earlier, total) if total else None


def length_preference(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Share | None:
    """How often the longer text (in characters) was preferred; equal lengths and ties are left out."""
    length = _lengths(tasks)
    longer = total = 0
    for judgement in current(judgements):
        for a, b, p in stated_preferences(judgement):
            one, other = length.get((judgement.task_id, a)), length.get((judgement.task_id, b))
            if p != 0.5 and one is not None and other is not None and one != other:
                total += 1
                longer += (one > other) == (p > 0.5)
    return share(longer, total) if total else None


def compare(
    tasks: Sequence[Task], first: Iterable[Judgement], second: Iterable[Judgement], *, strongest: int = 20
) -> Comparison:
    """Hold `second` (a judge) against `first` (people); see `Comparison`. `strongest` disagreements are listed."""
    first, second = list(first), list(second)
    one, two = preference_votes(tasks, first), preference_votes(tasks, second)
    common = [item for item in one if item in two]
    verdicts = [(_verdict(one[item]), _verdict(two[item])) for item in common]
    decided = [(a, b) for a, b in verdicts if a != 0.5 and b != 0.5]
    lengths, tasks_in_common = _lengths(tasks), {item[0] for item in common}
    longest = [
        (lengths[task, a] > lengths[task, b]) == (verdict == 1.0)
        for (task, a, b), (verdict, _) in zip(common, verdicts, strict=True)
        if verdict != 0.5 and lengths[task, a] != lengths[task, b]
    ]
    there = [t for t in tasks if t.id in tasks_in_common]
    return Comparison(
        items=len(common),
        accuracy=share(sum(a == b for a, b in decided), len(decided)) if decided else None,
        same=share(sum(a == b for a, b in verdicts), len(verdicts)) if verdicts else None,
        kappa=_kappa(verdicts),
        ece=_calibration_error([(_mean(two[item]), *pair) for item, pair in zip(common, verdicts, strict=True)]),
        ties_first=sum(a == 0.5 for a, _ in verdicts),
        ties_second=sum(b == 0.5 for _, b in verdicts),
        length_first=length_preference(there, first),
        length_second=length_preference(there, second),
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
    return share(sum(_category(a) == _category(b) for a, b in both), len(both)) if both else None


def share(successes: int, n: int) -> Share:
    """`successes` of `n` with the Wilson interval; n > 0."""
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, "wilson")
    return Share(successes / n, float(interval.low), float(interval.high), n)


def newest(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Judgements that no other one supersedes, whatever their status."""
    judgements = list(judgements)
    replaced = superseded_ids(judgements)
    return [j for j in judgements if j.id not in replaced]


def current(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Judgements that count: answered, and not superseded."""
    return [j for j in newest(judgements) if j.status == "ok"]


def preference_votes(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Votes:
    """For each pair of candidates, in the task's order: annotator -> probability that the first is better."""
    order = {task.id: {c.id: n for n, c in enumerate(task.candidates)} for task in tasks}

    def said() -> Iterator[tuple[Item, str, float]]:
        for judgement in current(judgements):
            place = order.get(judgement.task_id, {})
            for a, b, p in stated_preferences(judgement):
                if a in place and b in place:
                    pair, p_first = ((a, b), p) if place[a] < place[b] else ((b, a), 1 - p)
                    yield (judgement.task_id, *pair), judgement.annotator.id, p_first

    return _once_each(said())


def _rating_votes(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Votes:
    known = {task.id for task in tasks}
    rated = [(j, j.payload) for j in current(judgements) if isinstance(j.payload, Rating) and j.task_id in known]
    return _once_each(
        ((j.task_id, r.candidate, ""), j.annotator.id, (r.value - r.low) / (r.high - r.low) if r.high > r.low else 0.0)
        for j, r in rated
    )


def _binary_votes(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Votes:
    known = {task.id for task in tasks}
    thumbs = [(j, j.payload) for j in current(judgements) if isinstance(j.payload, Binary) and j.task_id in known]
    return _once_each(((j.task_id, b.candidate, ""), j.annotator.id, float(b.good)) for j, b in thumbs)


def _once_each(said: Iterable[tuple[Item, str, float]]) -> Votes:
    every: dict[Item, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item, annotator, value in said:
        every[item][annotator].append(value)
    return {item: {who: sum(v) / len(v) for who, v in own.items()} for item, own in every.items()}


def _categories(votes: Votes) -> Votes:
    return {item: {who: _category(p) for who, p in own.items()} for item, own in votes.items()}


def _category(p: float) -> float:
    """1 for the first, 0 for the second, 0.5 for neither."""
    return 0.5 if abs(p - 0.5) < _EQUAL else float(p > 0.5)


def _agreement(votes: Votes, interval: bool) -> Agreement:
    annotators = {who for own in votes.values() for who in own}
    shared = [[round(v, 9) for v in own.values()] for own in votes.values() if len(own) > 1]
    comparisons = agreeing = 0
    for values in shared:
        counts = Counter(values).values()
        comparisons += len(values) * (len(values) - 1) // 2
        agreeing += sum(n * (n - 1) // 2 for n in counts)
    raw = agreeing / comparisons if comparisons else None
    alpha = (_interval_alpha if interval else _nominal_alpha)(shared)
    return Agreement(raw, alpha, len(shared), comparisons, len(annotators))


def _nominal_alpha(shared: Sequence[Sequence[float]]) -> float | None:
    domain = sorted({value for values in shared for value in values})
    if len(domain) < 2:
        return None
    import krippendorff

    counts = [[values.count(value) for value in domain] for values in shared]
    return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement="nominal"))


def _interval_alpha(shared: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with squared distances, from sums of squares.

    The library builds a table of items x values x values, too large where a judge's ratings are fractions.
    """
    import numpy as np

    if not shared:
        return None
    every = np.concatenate([np.asarray(values) for values in shared])
    spread = float(((every - every.mean()) ** 2).sum())
    if spread < _EQUAL**2:
        return None
    # The mean squared distance of two values is 2/(m - 1) times their sum of squares around the mean.
    within = sum(len(v) / (len(v) - 1) * float(((np.asarray(v) - np.mean(v)) ** 2).sum()) for v in shared)
    return 1 - (within / len(every)) / (spread / (len(every) - 1))


def _known_answer(task: Task) -> Judgement:
    return Judgement(
        id=f"gold {task.id}", task_id=task.id, annotator=Annotator(id="gold", kind="program"), payload=task.gold
    )


def _lengths(tasks: Sequence[Task]) -> dict[tuple[str, str], int]:
    return {(task.id, c.id): len(c.completion) for task in tasks for c in task.candidates}


def _mean(votes: Mapping[str, float]) -> float:
    return sum(votes.values()) / len(votes)


def _verdict(votes: Mapping[str, float]) -> float:
    counts = Counter(_category(p) for p in votes.values()).most_common()
    if len(counts) == 1 or counts[0][1] > counts[1][1]:
        return counts[0][0]
    return _category(_mean(votes))


def _kappa(verdicts: Sequence[tuple[float, float]]) -> float | None:
    """None where both sets gave one and the same answer throughout: chance would agree as much."""
    if len({category for pair in verdicts for category in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    # Categories, not numbers: sklearn takes 0.5 for a continuous target.
    words = {1.0: "first", 0.0: "second", 0.5: "tie"}
    return float(cohen_kappa_score([words[a] for a, _ in verdicts], [words[b] for _, b in verdicts]))


def _calibration_error(judged: Sequence[tuple[float, float, float]]) -> float | None:
    """Expected calibration error (Naeini et al. 2015) over (p, verdict of the first, of the second), both decided."""
    if all(p in (0.0, 0.5, 1.0) for p, _, _ in judged):
        return None
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
