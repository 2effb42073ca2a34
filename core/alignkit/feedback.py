"""From judgements to pairs and labels: the one place where the forms of feedback meet, whoever gave it."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from alignkit.errors import UserError
from alignkit.records import (
    Binary,
    Candidate,
    Content,
    Critique,
    Demonstration,
    Judgement,
    LabelledCompletion,
    Message,
    Pairwise,
    Payload,
    PreferencePair,
    Ranking,
    Rating,
    Task,
)

# (first, second) in the task's order -> who voted -> that voter's probabilities that `first` is better.
_Votes = dict[tuple[str, str], dict[str, list[float]]]


def preference_pairs(
    tasks: Sequence[Task],
    judgements: Iterable[Judgement],
    *,
    rating_threshold: float = 1.0,
    include_ties: bool = True,
    left_out: Counter[str] | None = None,
) -> list[PreferencePair]:
    """Preference pairs of every task that has judgements, in the tasks' order.

    Rankings give all cross-group pairs, and 0.5 for tied ones; ratings of one annotator a vote where they
    differ by at least `rating_threshold`; binary judgements good x bad within the task; a critique's revision
    is preferred over the original. `p` is the mean over annotators, each counted once, and `chosen` the side
    with p >= 0.5. Pairs of one task form a group with weight 1/#pairs each (Ouyang et al. 2022, section 3.5).
    Judgements that failed or were superseded, and pairs of equal texts, are left out; the latter are counted in
    `left_out["equal"]`. Raises UserError for a candidate that is not in its task.
    """
    pairs: list[PreferencePair] = []
    for task, mine in _judged(tasks, judgements):
        voted = [*_voted_pairs(task, mine, rating_threshold, include_ties), *_revised_pairs(task, mine)]
        found = [pair for pair in voted if pair.chosen != pair.rejected]
        if left_out is not None:
            left_out["equal"] += len(voted) - len(found)
        pairs += [pair.model_copy(update={"weight": 1 / len(found)}) for pair in found]
    return pairs


def labelled_completions(
    tasks: Sequence[Task], judgements: Iterable[Judgement], *, left_out: Counter[str] | None = None
) -> dict[str, list[LabelledCompletion]]:
    """The completions that binary judgements call good or bad, by task id, in the tasks' order.

    The label is the annotators' majority, each counted once, and the weight how far the majority is ahead: 1 where
    all agree, 1/3 for two against one. Completions on which they are divided equally are left out and counted in
    `left_out["divided"]`. Raises UserError for a candidate that is not in its task.
    """
    found: dict[str, list[LabelledCompletion]] = {}
    for task, mine in _judged(tasks, judgements):
        votes: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for judgement in mine:
            if isinstance(judgement.payload, Binary):
                votes[judgement.payload.candidate][judgement.annotator.id].append(float(judgement.payload.good))
        for candidate in task.candidates:
            if candidate.id not in votes:
                continue
            share = _mean([_mean(own) for own in votes[candidate.id].values()])
            if share != 0.5:
                completion, weight = _answer(task, candidate.completion), abs(2 * share - 1)
                label = LabelledCompletion(prompt=task.prompt, completion=completion, label=share > 0.5, weight=weight)
                found.setdefault(task.id, []).append(label)
            elif left_out is not None:
                left_out["divided"] += 1
    return found


def revised_demonstrations(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> dict[str, list[Demonstration]]:
    """The better answers that critiques came with, by task id, in the tasks' order: examples for SFT.

    Raises UserError for a candidate that is not in its task.
    """
    found: dict[str, list[Demonstration]] = {}
    for task, mine in _judged(tasks, judgements):
        for pair in _revised_pairs(task, mine):
            found.setdefault(task.id, []).append(Demonstration(prompt=pair.prompt, completion=pair.chosen))
    return found


def judgements_hash(judgements: Iterable[Judgement]) -> str:
    """SHA-256 of the judgements' contents, whatever their order: the name of what a reward model learned from."""
    by_id = sorted(judgements, key=lambda judgement: judgement.id)
    rows = [json.dumps(j.model_dump(mode="json"), ensure_ascii=False, sort_keys=True) for j in by_id]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _judged(tasks: Sequence[Task], judgements: Iterable[Judgement]) -> Iterator[tuple[Task, list[Judgement]]]:
    """Every task with its usable judgements: those that did not fail and were not superseded."""
    judgements = list(judgements)
    replaced = superseded_ids(judgements)
    by_task: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        if judgement.status == "ok" and judgement.id not in replaced:
            by_task[judgement.task_id].append(judgement)
    for task in tasks:
        mine = by_task.get(task.id, [])
        _check_candidates(task, mine)
        yield task, mine


def superseded_ids(judgements: Iterable[Judgement]) -> set[str]:
    """Ids of judgements that a later one replaces."""
    return {j.supersedes for j in judgements if j.supersedes is not None}


def taken_back(judgements: Iterable[Judgement]) -> set[str]:
    """Ids of the judgements that take an answer back: skips that supersede. One that supersedes such a one is a skip.

    `judgements` are all there are, those that were superseded too.
    """
    replacing = {j.id: j.supersedes for j in judgements if j.status == "skipped" and j.supersedes is not None}
    found = set()
    for id in replacing:
        chain = [id]
        while (below := replacing[chain[-1]]) in replacing and below not in chain:
            chain.append(below)
        if len(chain) % 2:
            found.add(id)
    return found


def judged_candidates(judgement: Judgement) -> list[str]:
    """The candidate ids that a judgement names."""
    return [] if judgement.payload is None else payload_candidates(judgement.payload)


def payload_candidates(payload: Payload) -> list[str]:
    """The candidate ids that an answer names."""
    if isinstance(payload, Ranking):
        return [id for group in payload.groups for id in group]
    if isinstance(payload, Pairwise):
        return [payload.a, payload.b]
    return [payload.candidate]


def _check_candidates(task: Task, judgements: Iterable[Judgement]) -> None:
    known = {c.id for c in task.candidates}
    for judgement in judgements:
        for id in judged_candidates(judgement):
            if id not in known:
                raise UserError(f"candidate {id!r} is not in task {task.id!r}", where=f"judgement {judgement.id}")


def _voted_pairs(
    task: Task, judgements: Sequence[Judgement], threshold: float, include_ties: bool
) -> Iterator[PreferencePair]:
    order = {candidate.id: n for n, candidate in enumerate(task.candidates)}
    votes: _Votes = defaultdict(lambda: defaultdict(list))
    for voter, better, other, p in _all_votes(judgements, threshold):
        if order[better] <= order[other]:
            votes[better, other][voter].append(p)
        else:
            votes[other, better][voter].append(1 - p)
    for (first, second), by_voter in sorted(votes.items(), key=lambda v: (order[v[0][0]], order[v[0][1]])):
        a, b = task.candidates[order[first]], task.candidates[order[second]]
        p = _mean([_mean(own) for own in by_voter.values()])
        if p == 0.5 and not include_ties:
            continue
        yield _pair(task, a, b, p) if p >= 0.5 else _pair(task, b, a, 1 - p)


def _all_votes(judgements: Sequence[Judgement], threshold: float) -> Iterator[tuple[str, str, str, float]]:
    """(voter, a, b, probability that a is better)."""
    for judgement in judgements:
        for a, b, p in stated_preferences(judgement):
            yield judgement.annotator.id, a, b, p
    yield from _rated(judgements, threshold)
    yield from _good_and_bad(judgements)


def stated_preferences(judgement: Judgement) -> Iterator[tuple[str, str, float]]:
    """(a, b, probability that a is better) of every pair that a ranking or a pairwise judgement compares."""
    payload = judgement.payload
    if isinstance(payload, Ranking):
        yield from _ranked(payload)
    elif isinstance(payload, Pairwise) and payload.a != payload.b:
        yield payload.a, payload.b, payload.p_a


def _ranked(ranking: Ranking) -> Iterator[tuple[str, str, float]]:
    for group in ranking.groups:
        for a, b in combinations(group, 2):
            yield a, b, 0.5
    for better, worse in combinations(ranking.groups, 2):
        yield from ((a, b, 1.0) for a in better for b in worse)


def _rated(judgements: Sequence[Judgement], threshold: float) -> Iterator[tuple[str, str, str, float]]:
    """Ratings are compared within one annotator: people use a scale differently."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for judgement in judgements:
        if isinstance(judgement.payload, Rating):
            values[judgement.annotator.id][judgement.payload.candidate] = judgement.payload.value
    for voter, own in values.items():
        for a, b in combinations(own, 2):
            if own[a] != own[b] and abs(own[a] - own[b]) >= threshold:
                yield voter, a, b, float(own[a] > own[b])


def _good_and_bad(judgements: Sequence[Judgement]) -> Iterator[tuple[str, str, str, float]]:
    """Every good against every bad answer, across annotators too: one thumb each is the usual case."""
    binary = [(j.annotator.id, j.payload) for j in judgements if isinstance(j.payload, Binary)]
    for good_voter, good in binary:
        for bad_voter, bad in binary:
            if good.good and not bad.good and good.candidate != bad.candidate:
                voter = good_voter if good_voter == bad_voter else f"{good_voter}\n{bad_voter}"
                yield voter, good.candidate, bad.candidate, 1.0


def _revised_pairs(task: Task, judgements: Sequence[Judgement]) -> Iterator[PreferencePair]:
    originals = {c.id: c for c in task.candidates}
    for judgement in judgements:
        payload = judgement.payload
        if not isinstance(payload, Critique) or not (payload.revision or "").strip():
            continue
        assert payload.revision is not None
        original = originals[payload.candidate].completion
        if payload.revision != original:
            yield PreferencePair(
                prompt=task.prompt,
                chosen=_answer(task, payload.revision),
                rejected=_answer(task, original),
                group=task.id,
            )


def _pair(task: Task, chosen: Candidate, rejected: Candidate, p: float) -> PreferencePair:
    return PreferencePair(
        prompt=task.prompt,
        chosen=_answer(task, chosen.completion),
        rejected=_answer(task, rejected.completion),
        p=p,
        group=task.id,
    )


def _answer(task: Task, completion: str) -> Content:
    """Text for a text prompt, an assistant's message for a conversation, as TRL's two forms have it."""
    return completion if isinstance(task.prompt, str) else (Message(role="assistant", content=completion),)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
