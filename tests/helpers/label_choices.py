"""What a test decides to answer, by the texts alone, and the payload that the store should then hold."""

import random
from dataclasses import dataclass

from alignkit.annotation import Form
from alignkit.records import Binary, Critique, Judgement, Pairwise, Payload, Ranking, Rating, Task

# Every key that does something outside of text fields is in these.
WORDS = "Stuffs 1 or 2 facts up? Not quite, 10 points."
REASON = "Is this put first? 1 2 3 fuss"


@dataclass(frozen=True)
class Choice:
    """`groups` of texts, best first, for rankings and pairs; the others' answers in their own fields."""

    groups: tuple[tuple[str, ...], ...] = ()
    value: int = 0
    good: bool = False
    words: str = ""
    revision: str | None = None


def decide(form: Form, task: Task, time: int = 0) -> Choice:
    """Another choice for each `time`."""
    chance = random.Random(f"{task.id} {time // 2}")
    texts = [candidate.completion for candidate in task.candidates]
    if form in ("ranking", "pairwise"):
        chance.shuffle(texts)
        return Choice(groups=tuple(_tied(texts, chance)) if not time % 2 else tuple((t,) for t in reversed(texts)))
    value = (chance.randrange(10) + 3 * (time % 2)) % 10 + 1
    good = chance.random() < 0.5
    revision = f"a better one, {time}" if (chance.random() < 0.5) != bool(time % 2) else None
    return Choice(value=value, good=good != bool(time % 2), words=f"{WORDS} ({time})", revision=revision)


def payload(form: Form, task: Task, choice: Choice) -> Payload:
    """From texts to candidate ids."""
    ids = {candidate.completion: candidate.id for candidate in task.candidates}
    groups = tuple(tuple(ids[text] for text in group) for group in choice.groups)
    first = task.candidates[0].id
    if form == "ranking":
        return Ranking(groups=groups)
    if form == "pairwise":
        p_a = 0.5 if len(groups) == 1 else float(groups[0] == (first,))
        return Pairwise(a=first, b=task.candidates[1].id, p_a=p_a)
    if form == "rating":
        return Rating(candidate=first, value=choice.value, low=1, high=10)
    if form == "binary":
        return Binary(candidate=first, good=choice.good)
    return Critique(candidate=first, text=choice.words, revision=choice.revision)


def _tied(texts: list[str], chance: random.Random) -> list[tuple[str, ...]]:
    groups: list[tuple[str, ...]] = []
    for text in texts:
        if groups and chance.random() < 0.35:
            groups[-1] += (text,)
        else:
            groups.append((text,))
    return groups


@dataclass(frozen=True)
class Expected:
    """A judgement as it should stand in the store; `replaces` is the place of the one it supersedes."""

    task: str
    status: str
    payload: Payload | None = None
    order: tuple[str, ...] = ()
    replaces: int | None = None
    reason: str = ""


def seen(judgements: list[Judgement]) -> list[Expected]:
    """What the store holds, in the same words."""
    places = {judgement.id: place for place, judgement in enumerate(judgements)}
    return [
        Expected(
            j.task_id,
            j.status,
            j.payload,
            j.presented_order,
            None if j.supersedes is None else places[j.supersedes],
            j.evidence.text if j.evidence else "",
        )
        for j in judgements
    ]
