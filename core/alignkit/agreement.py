"""How far annotators agree with each other and with known answers; what place and length have to do with it.

Pure functions over tasks and judgements. Judgements that failed, were skipped or superseded, or whose task is not
given, say nothing. An annotator who judged the same thing twice counts once, with the mean of what he said. A
preference (of a ranking or a pairwise judgement) is about two candidates, in the task's order, and falls into one of
three categories: the first is better, the second is, or neither.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
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


def agreement(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> dict[str, Agreement]:
    """By kind of answer: "preference" (three categories), "rating" (interval scale), "binary" (two categories)."""
    judgements = list(judgements)
    found = {
        "preference": _categories(preference_votes(tasks, judgements)),
        "rating": rating_votes(tasks, judgements),
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
    for votes_of, tolerance in ((preference_votes, 0.0), (_binary_votes, 0.0), (rating_votes, RATING_TOLERANCE)):
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
    """Of two candidates not tied, how often the one shown earlier was preferred; 1/2 if order does not matter.

    Judgements whose evidence has both orders are left out: neither candidate was the earlier one.
    """
    earlier = total = 0
    for judgement in current(judgements):
        if judgement.evidence is not None and judgement.evidence.p_swapped is not None:
            continue
        place = {id: n for n, id in enumerate(judgement.presented_order)}
        for a, b, p in stated_preferences(judgement):
            if p != 0.5 and a in place and b in place:
                total += 1
                earlier += (place[a] < place[b]) == (p > 0.5)
    return share(earlier, total) if total else None


def length_preference(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Share | None:
    """How often the longer text (in characters) was preferred; equal lengths and ties are left out."""
    length = lengths(tasks)
    longer = total = 0
    for judgement in current(judgements):
        for a, b, p in stated_preferences(judgement):
            one, other = length.get((judgement.task_id, a)), length.get((judgement.task_id, b))
            if p != 0.5 and one is not None and other is not None and one != other:
                total += 1
                longer += (one > other) == (p > 0.5)
    return share(longer, total) if total else None


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


def rating_votes(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Votes:
    """For each candidate: annotator -> rating, brought to 0..1."""
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
    return {item: {who: category(p) for who, p in own.items()} for item, own in votes.items()}


def category(p: float) -> float:
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


def lengths(tasks: Sequence[Task]) -> dict[tuple[str, str], int]:
    """(task id, candidate id) -> characters."""
    return {(task.id, c.id): len(c.completion) for task in tasks for c in task.candidates}
