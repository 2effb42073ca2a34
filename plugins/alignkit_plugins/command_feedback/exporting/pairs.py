"""Preference pairs and labels as rows: TRL's forms, hh-rlhf transcripts, and a table of everything a pair has."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from alignkit.agreement import newest
from alignkit.annotation.reading import Feedback
from alignkit.errors import UserError
from alignkit.feedback import labelled_completions, preference_pairs
from alignkit.records import Binary, Content, Critique, Message, PreferencePair, Ranking

_SPEAKER = re.compile(r"(?:^|\n\n)(?:Human|Assistant):")
_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


class Exported(NamedTuple):
    """Rows of a file and, by what it was, how much the file does not hold."""

    rows: list[dict[str, Any]]
    lost: Counter[str]


def trl(feedback: Feedback) -> Exported:
    """{prompt, chosen, rejected}, all texts. Raises UserError where a prompt is a conversation."""
    lost = Counter[str]()
    rows = []
    for pair in _decided(feedback, lost):
        if not isinstance(pair.prompt, str):
            raise UserError(
                "a prompt is a conversation", where=f"task {pair.group}", hint="--format trl-conversational"
            )
        rows.append({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected})
    return Exported(rows, lost)


def trl_conversational(feedback: Feedback) -> Exported:
    """{prompt, chosen, rejected}, all lists of messages; a text becomes one turn of the user."""
    lost = Counter[str]()
    rows = []
    for pair in _decided(feedback, lost):
        lost["text prompts turned into messages"] += isinstance(pair.prompt, str)
        turns = zip(("user", "assistant", "assistant"), (pair.prompt, pair.chosen, pair.rejected), strict=True)
        values = [[m.model_dump() for m in _messages(content, role)] for role, content in turns]
        rows.append(dict(zip(("prompt", "chosen", "rejected"), values, strict=True)))
    return Exported(rows, lost)


def kto(feedback: Feedback) -> Exported:
    """{prompt, completion, label} of the completions that were called good or bad."""
    lost = _unsaid(feedback, told=(Binary,))
    left_out = Counter[str]()
    labels = [one for own in labelled_completions(*feedback, left_out=left_out).values() for one in own]
    lost["completions on which annotators are divided"] += left_out["divided"]
    lost["weights of divided majorities"] += sum(label.weight != 1 for label in labels)
    rows = [{"prompt": _plain(n.prompt), "completion": _plain(n.completion), "label": n.label} for n in labels]
    return Exported(rows, lost)


def hh(feedback: Feedback) -> Exported:
    """{chosen, rejected} transcripts. A pair whose texts would be read as other turns is left out."""
    lost = Counter[str]()
    rows = []
    for pair in _decided(feedback, lost):
        lost["text prompts turned into transcripts"] += isinstance(pair.prompt, str)
        context = _messages(pair.prompt, "user")
        sides = [[*context, *_messages(side, "assistant")] for side in (pair.chosen, pair.rejected)]
        problem = _untold(sides)
        if problem:
            lost[problem] += 1
            continue
        rows.append({name: _transcript(turns) for name, turns in zip(("chosen", "rejected"), sides, strict=True)})
    return Exported(rows, lost)


def table(feedback: Feedback) -> Exported:
    """Every field of every pair, ties and probabilities too, for parquet. Raises UserError for prompts of two forms."""
    lost = Counter[str]()
    pairs = list(_pairs(feedback, lost))
    if len({isinstance(pair.prompt, str) for pair in pairs}) > 1:
        raise UserError("some prompts are texts and some conversations: a column has one type", hint="--format jsonl")
    return Exported([pair.model_dump(mode="json") for pair in pairs], lost)


def _pairs(feedback: Feedback, lost: Counter[str]) -> Iterator[PreferencePair]:
    """All pairs; what no pair can tell is counted."""
    lost += _unsaid(feedback, told=())
    left_out = Counter[str]()
    for pair in preference_pairs(*feedback, left_out=left_out):
        if any(not side.strip() for side in (_last(pair.chosen), _last(pair.rejected))):
            lost["pairs with an empty answer"] += 1
        else:
            yield pair
    lost["pairs of equal texts"] += left_out["equal"]


def _decided(feedback: Feedback, lost: Counter[str]) -> Iterator[PreferencePair]:
    """Pairs with a side; a soft probability becomes certain."""
    for pair in _pairs(feedback, lost):
        if pair.p == 0.5:
            lost["ties"] += 1
            continue
        lost["probabilities made certain"] += pair.p != 1
        lost["weights"] += pair.weight != 1
        lost["margins"] += pair.margin != 0
        yield pair


def _unsaid(feedback: Feedback, told: tuple[type, ...]) -> Counter[str]:
    """Judgements that have no part in what is exported. `told`: the kinds that have, if not all but words."""
    lost = Counter[str]()
    for judgement in newest(feedback.judgements):
        payload = judgement.payload
        if payload is None:
            lost[f"judgements without an answer ({judgement.status})"] += 1
        elif told and not isinstance(payload, told):
            lost[f"judgements of the form {payload.type}"] += 1
        elif isinstance(payload, Critique):
            lost["critiques"] += 1
        elif isinstance(payload, Ranking) and len(payload.groups) == 1 and len(payload.groups[0]) == 1:
            lost["rankings of one candidate"] += 1
    lost["superseded judgements"] += len(feedback.judgements) - len(newest(feedback.judgements))
    judged = {j.task_id for j in newest(feedback.judgements) if j.status == "ok"}
    lost["tasks without an answer"] += sum(task.id not in judged for task in feedback.tasks)
    return lost


def _last(answer: Content) -> str:
    return answer if isinstance(answer, str) else answer[-1].content


def _messages(content: Content, role: str) -> tuple[Message, ...]:
    return (Message(role=role, content=content),) if isinstance(content, str) else content


def _plain(content: Content) -> Any:
    return content if isinstance(content, str) else [m.model_dump() for m in content]


def _untold(sides: Sequence[Sequence[Message]]) -> str:
    """Why a transcript cannot hold these turns, or the empty string."""
    turns = [turn for side in sides for turn in side]
    if any(turn.role not in _SPEAKERS for turn in turns) or any(side[0].role != "user" for side in sides):
        return "pairs with other turns than those of user and assistant"
    if any(_SPEAKER.search(turn.content) for turn in turns):
        return "pairs whose texts have a speaker's mark"
    return ""


def _transcript(turns: Sequence[Message]) -> str:
    return "".join(f"\n\n{_SPEAKERS[turn.role]}: {turn.content}" for turn in turns)
