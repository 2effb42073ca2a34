"""How a task looks to one annotator: candidates under letters in an order of his own, and his earlier answer."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from alignkit.annotation import Form
from alignkit.records import (
    Binary,
    Candidate,
    Content,
    Critique,
    Instructions,
    Judgement,
    Pairwise,
    Payload,
    Ranking,
    Rating,
    Task,
    plain_text,
)
from alignkit_plugins.command_label.answers import TEXT_CHARACTERS, letter, revision_limit
from alignkit_plugins.command_label.text import Shown, show, show_content, visible

QUESTIONS: dict[Form, str] = {
    "ranking": "Rank the answers from best to worst",
    "pairwise": "Which answer is better?",
    "rating": "How good is this answer?",
    "binary": "Is this a good answer?",
    "critique": "What is good or bad about this answer?",
}
EXCERPT_CHARACTERS = 160


@dataclass(frozen=True)
class TaskView:
    """What the template needs to ask one task."""

    task: Task
    form: Form
    question: str
    prompt: Sequence[Shown]
    candidates: Sequence[tuple[str, Shown]]
    scale: Sequence[tuple[int, str]]
    # the form's fields, filled from an earlier answer or from what was just refused
    fields: dict[str, str] = field(default_factory=dict)
    text_limit: int = TEXT_CHARACTERS
    revision_limit: int = TEXT_CHARACTERS


def presented(task: Task, annotator_id: str) -> list[Candidate]:
    """The candidates in an order that this annotator, and no policy, decides; the same after a reload."""
    seed = hashlib.sha256(f"{annotator_id}\n{task.id}".encode()).digest()
    order = list(task.candidates)
    random.Random(seed).shuffle(order)
    return order


def view(task: Task, form: Form, told: Instructions, annotator_id: str, fields: dict[str, str]) -> TaskView:
    """Raises nothing: whatever models wrote can be shown."""
    shown = presented(task, annotator_id)
    original = task.candidates[0].completion
    return TaskView(
        task=task,
        form=form,
        question=visible(told.question) or QUESTIONS[form],
        prompt=show_content(task.prompt),
        candidates=[(letter(n), show(candidate.completion)) for n, candidate in enumerate(shown)],
        scale=scale(told),
        fields=fields if form != "critique" else {"revision": original, **fields},
        revision_limit=revision_limit(original),
    )


def scale(told: Instructions) -> list[tuple[int, str]]:
    """(value, its key): the digit itself where the values are digits, 0 for ten, else the place on the scale."""
    values = range(told.rating_low, told.rating_high + 1)
    if values[0] >= 0 and values[-1] <= 9:
        return [(value, str(value)) for value in values]
    if values[0] >= 1 and values[-1] == 10:
        return [(value, str(value % 10)) for value in values]
    return [(value, str((place + 1) % 10)) for place, value in enumerate(values)]


def filled(judgement: Judgement, task: Task) -> dict[str, str]:
    """The form's fields of an earlier answer, to change it."""
    payload = judgement.payload
    if payload is None:
        return {}
    # not by the stored order: a judgement that was imported has another one, or none
    names = {candidate.id: letter(n) for n, candidate in enumerate(presented(task, judgement.annotator.id))}
    if isinstance(payload, Ranking):
        return {"ranking": ">".join("=".join(names[id] for id in group) for group in payload.groups)}
    if isinstance(payload, Pairwise):
        better = payload.a if payload.p_a > 0.5 else payload.b
        return {"choice": "tie" if payload.p_a == 0.5 else names[better]}
    if isinstance(payload, Rating):
        return {"value": str(int(payload.value))}
    if isinstance(payload, Binary):
        return {"verdict": "good" if payload.good else "bad"}
    return {"text": payload.text, **({"revision": payload.revision} if payload.revision is not None else {})}


def in_words(judgement: Judgement, task: Task) -> str:
    """A judgement in a line, for lists."""
    payload: Payload | None = judgement.payload
    if payload is None:
        return judgement.status
    fields = filled(judgement, task)
    if isinstance(payload, Ranking):
        return fields["ranking"].replace(">", " > ").replace("=", " = ")
    if isinstance(payload, Pairwise):
        return "a tie" if fields["choice"] == "tie" else f"{fields['choice']} is better"
    if isinstance(payload, Rating):
        return f"{fields['value']} ({payload.low:g} to {payload.high:g})"
    if isinstance(payload, Critique):
        return excerpt(payload.text) + (" · with a better version" if payload.revision is not None else "")
    return fields["verdict"]


def excerpt(content: Content) -> str:
    """The beginning of a text, for lists; the whole is behind the link."""
    text = visible(" ".join(plain_text(content).split()))
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1].rstrip() + "…"
