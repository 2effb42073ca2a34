"""Records for Argilla and Label Studio: the questions with the answers that were given, under alignkit's ids."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from alignkit.agreement import newest
from alignkit.annotation.reading import Feedback
from alignkit.records import Binary, Critique, Judgement, Pairwise, Payload, Ranking, Rating, Task, content_id
from alignkit_plugins.command_feedback.exporting.pairs import Exported

# question or control -> what was said
_Said = Iterator[tuple[str, Any]]


def argilla(feedback: Feedback) -> Exported:
    """A flat record per task, with the responses of every annotator to every question."""
    lost = _not_told(feedback)
    lost["presented orders"] += sum(bool(j.presented_order) for j in newest(feedback.judgements))
    rows = []
    for task, judgements in _by_task(feedback, lost):
        row: dict[str, Any] = {
            "id": task.id,
            "status": "completed" if judgements else "pending",
            **_fields(task, "response_"),
        }
        row |= _scale(judgements, lost)
        responses: dict[str, list[tuple[Any, str, str]]] = defaultdict(list)
        answers = {c.id: f"response_{n}" for n, c in enumerate(task.candidates, 1)}
        for judgement in judgements:
            who = judgement.annotator.id
            if judgement.payload is None:
                responses["preference" if len(answers) == 2 else "ranking"].append((None, who, "discarded"))
                continue
            for question, said in _argilla_answers(judgement.payload, answers, lost):
                responses[question].append((said, who, "submitted"))
        for question, given in responses.items():
            row[f"{question}.responses"] = [said for said, _, _ in given]
            row[f"{question}.responses.users"] = [who for _, who, _ in given]
            row[f"{question}.responses.status"] = [status for _, _, status in given]
        rows.append(row)
    return Exported(rows, lost)


def label_studio(feedback: Feedback) -> Exported:
    """A task with its annotations, as Label Studio exports and imports them."""
    lost = _not_told(feedback)
    rows = []
    for task, judgements in _by_task(feedback, lost):
        answers = {c.id: f"answer{n}" for n, c in enumerate(task.candidates, 1)}
        by_annotator: dict[str, list[Judgement]] = defaultdict(list)
        for judgement in judgements:
            by_annotator[judgement.annotator.id].append(judgement)
        annotations = [
            {
                "completed_by": {"id": who},
                "was_cancelled": all(j.payload is None for j in own),
                "result": [result for j in own for result in _results(j, answers, lost)],
            }
            for who, own in by_annotator.items()
        ]
        data = _fields(task, "answer") | _scale(judgements, lost)
        rows.append({"data": data, "annotations": annotations})
    return Exported(rows, lost)


def _not_told(feedback: Feedback) -> Counter[str]:
    kept = newest(feedback.judgements)
    lost = Counter({"superseded judgements": len(feedback.judgements) - len(kept)})
    for judgement in kept:
        if judgement.payload is None and judgement.status != "skipped":
            lost[f"judgements without an answer ({judgement.status})"] += 1
        lost["evidence of a model"] += judgement.evidence is not None
        lost["annotators' kinds other than human"] += judgement.annotator.kind != "human"
    lost["known answers (gold)"] += sum(task.gold is not None for task in feedback.tasks)
    imported = all(c.policy_revision == "imported" for task in feedback.tasks for c in task.candidates)
    lost["tasks whose sampling and token ids are left out"] += 0 if imported else len(feedback.tasks)
    return lost


def _by_task(feedback: Feedback, lost: Counter[str]) -> Iterator[tuple[Task, list[Judgement]]]:
    """Tasks with what was said of them.

    These tools compare the two answers of a record: a pair out of more candidates is a task of its own, and the whole
    one is left away if nothing else was said of it.
    """
    told: dict[str, list[Judgement]] = defaultdict(list)
    pairs: dict[str, dict[frozenset[str], list[Judgement]]] = defaultdict(lambda: defaultdict(list))
    many = {task.id for task in feedback.tasks if len(task.candidates) > 2}
    for judgement in newest(feedback.judgements):
        payload = judgement.payload
        if isinstance(payload, Pairwise) and payload.a == payload.b:
            lost["comparisons of a candidate with itself"] += 1
        elif isinstance(payload, Pairwise) and judgement.task_id in many:
            pairs[judgement.task_id][frozenset((payload.a, payload.b))].append(judgement)
        elif judgement.status in ("ok", "skipped"):
            told[judgement.task_id].append(judgement)
    for task in feedback.tasks:
        if told[task.id] or task.id not in pairs:
            yield task, told[task.id]
        for pair, judgements in pairs.get(task.id, {}).items():
            yield _of_pair(task, pair, judgements)


def _of_pair(task: Task, pair: frozenset[str], judgements: Sequence[Judgement]) -> tuple[Task, list[Judgement]]:
    """The two candidates as a task, whose id is the same in every export."""
    candidates = tuple(c for c in task.candidates if c.id in pair)
    id = content_id("pair", task.id, *(c.id for c in candidates))
    orders = [tuple(c for c in j.presented_order if c in pair) for j in judgements]
    moved = [
        j.model_copy(update={"task_id": id, "presented_order": order})
        for j, order in zip(judgements, orders, strict=True)
    ]
    return task.model_copy(update={"id": id, "candidates": candidates, "gold": None}), moved


def _fields(task: Task, name: str) -> dict[str, Any]:
    prompt = task.prompt if isinstance(task.prompt, str) else [m.model_dump() for m in task.prompt]
    answers = {f"{name}{n}": c.completion for n, c in enumerate(task.candidates, 1)}
    return {"prompt": prompt, **answers, "task_id": task.id, "candidate_ids": [c.id for c in task.candidates]}


def _scale(judgements: Sequence[Judgement], lost: Counter[str]) -> dict[str, Any]:
    """The scale of the task's ratings; of several the first."""
    scales = list(dict.fromkeys((j.payload.low, j.payload.high) for j in judgements if isinstance(j.payload, Rating)))
    lost["tasks with ratings on several scales"] += len(scales) > 1
    return {"rating_low": scales[0][0], "rating_high": scales[0][1]} if scales else {}


def _argilla_answers(payload: Payload, answers: dict[str, str], lost: Counter[str]) -> _Said:
    if isinstance(payload, Ranking):
        groups = enumerate(payload.groups, 1)
        yield "ranking", [{"value": answers[id], "rank": rank} for rank, group in groups for id in group]
    elif isinstance(payload, Pairwise):
        yield "preference", _side(payload, lost, (answers[payload.a], answers[payload.b], "tie"))
    else:
        yield from _about_one(payload, answers)


def _about_one(payload: Rating | Binary | Critique, answers: dict[str, str]) -> _Said:
    place = list(answers).index(payload.candidate) + 1
    if isinstance(payload, Rating):
        yield f"rating_{place}", int(payload.value) if payload.value == int(payload.value) else payload.value
    elif isinstance(payload, Binary):
        yield f"label_{place}", "good" if payload.good else "bad"
    else:
        yield f"critique_{place}", payload.text
        if payload.revision is not None:
            yield f"revision_{place}", payload.revision


def _results(judgement: Judgement, answers: dict[str, str], lost: Counter[str]) -> Iterator[dict[str, Any]]:
    payload = judgement.payload
    noted = {"meta": {"presented_order": list(judgement.presented_order)}}
    if isinstance(payload, Ranking):
        lost["ties in rankings"] += sum(len(group) > 1 for group in payload.groups)
        order = [answers[id] for group in payload.groups for id in group]
        yield {"from_name": "ranking", "type": "ranker", "value": {"ranker": {"rank": order}}, **noted}
    elif isinstance(payload, Pairwise):
        given = payload if list(answers).index(payload.a) == 0 else _turned(payload)
        said = _side(given, lost, ("left", "right", "tie"))
        value = {"choices": ["tie"]} if said == "tie" else {"selected": said}
        kind = "choices" if said == "tie" else "pairwise"
        yield {"from_name": "preference", "type": kind, "value": value, **noted}
    elif payload is not None:
        types = {"rating": "rating", "label": "choices", "critique": "textarea", "revision": "textarea"}
        keys = {"rating": "rating", "choices": "choices", "textarea": "text"}
        for question, said in _about_one(payload, answers):
            kind = types[question.partition("_")[0]]
            value = {keys[kind]: said if kind == "rating" else [said]}
            to = answers[payload.candidate]
            yield {"from_name": question, "to_name": to, "type": kind, "value": value, **noted}


def _turned(payload: Pairwise) -> Pairwise:
    return Pairwise(a=payload.b, b=payload.a, p_a=1 - payload.p_a)


def _side(payload: Pairwise, lost: Counter[str], names: tuple[str, str, str]) -> str:
    lost["probabilities made certain"] += payload.p_a not in (0.0, 0.5, 1.0)
    return names[2] if payload.p_a == 0.5 else names[0] if payload.p_a > 0.5 else names[1]
