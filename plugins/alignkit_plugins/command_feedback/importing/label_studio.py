"""Annotations exported from Label Studio as JSON: `data` beside `annotations[].result[]`."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Binary, Critique, Judgement, Pairwise, Payload, Ranking, Rating, Task
from alignkit_plugins.command_feedback.importing.argilla import (
    about_answer,
    numbered_answers,
    ranked_groups,
    with_ids,
)
from alignkit_plugins.command_feedback.importing.items import (
    Item,
    Maker,
    content,
    number,
    on_scale,
    row_object,
    scale_of,
    text,
    value,
)


class LabelStudioOptions(Config):
    """Options of `label-studio`."""

    prompt: str = Field("prompt", description="key of `data` with the prompt: text or a chat")
    answers: tuple[str, ...] = Field((), description="keys of `data` with the answers, in order; default: answer1 …")
    good: str = Field("good", description="choice that calls an answer good")
    bad: str = Field("bad", description="choice that calls an answer bad")
    tie: str = Field("tie", description="choice that calls two answers equally good")
    low: float = Field(1.0, description="the lower end of ratings; `rating_low` in `data` goes before")
    high: float = Field(5.0, description="the upper end of ratings; `rating_high` in `data` goes before")


class LabelStudioForm:
    """A row is one task; every part of an annotation that is about its answers is a judgement."""

    def __init__(self, options: LabelStudioOptions, maker: Maker) -> None:
        self._options = options
        self._maker = maker

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task, under its own id if alignkit exported it."""
        row, lost = row_object(source), Counter[str]()
        data, annotations = value(row, "data"), value(row, "annotations")
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise BadRow("'data' is an object and 'annotations' a list", reason="wrong type")
        names = numbered_answers(data, self._options.answers)
        prompt = content(data, self._options.prompt)
        candidates = self._maker.candidates(prompt, [text(data, name) for name in names])
        task = with_ids(self._maker.task(prompt, candidates), data)
        scale = scale_of(data, self._options.low, self._options.high)
        judgements: list[Judgement] = []
        for place, annotation in enumerate(annotations, 1):
            if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
                raise BadRow(f"annotation {place} has no list 'result'", reason="wrong type")
            judgements += self._judged(task, names, annotation, scale, lost)
        predictions = row.get("predictions")
        lost["predictions"] += len(predictions) if isinstance(predictions, list) else 0
        yield Item(task, judgements, lost)

    def _judged(
        self,
        task: Task,
        names: list[str],
        annotation: Mapping[str, Any],
        scale: tuple[float, float],
        lost: Counter[str],
    ) -> Iterator[Judgement]:
        who = _annotator(annotation.get("completed_by"), self._maker)
        if annotation.get("was_cancelled"):
            yield self._maker.judgement(task, None, who, status="skipped")
            return
        ids = dict(zip(names, (c.id for c in task.candidates), strict=True))
        for result in annotation["result"]:
            if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
                raise BadRow("a result has no object 'value'", reason="wrong type")
            payload = self._payload(result, ids, scale, annotation["result"])
            if payload is None:
                if not str(result.get("from_name", "")).startswith("revision"):
                    lost[f"results of {result.get('from_name')}"] += 1
                continue
            yield self._maker.judgement(task, payload, who, presented_order=_shown(result, payload, task))

    def _payload(
        self, result: Mapping[str, Any], ids: Mapping[str, str], scale: tuple[float, float], others: list[Any]
    ) -> Payload | None:
        said, question = result["value"], str(result.get("from_name", ""))
        name = f"the result of {question!r}"
        choice = said.get("selected") or _only(said.get("choices"))
        if len(ids) == 2 and choice in ("left", "right", self._options.tie):
            a, b = ids.values()
            return Pairwise(a=a, b=b, p_a={"left": 1.0, "right": 0.0}.get(choice, 0.5))
        if "ranker" in said:
            return Ranking(groups=ranked_groups(_ranked(said["ranker"], name), ids, name))
        about = ids.get(str(result.get("to_name"))) or about_answer(question, ids)
        if about is None:
            return None
        if said.get("rating") is not None:
            rating = on_scale(number(said["rating"], name), *scale, name)
            return Rating(candidate=about, value=rating, low=scale[0], high=scale[1])
        if choice in (self._options.good, self._options.bad):
            return Binary(candidate=about, good=choice == self._options.good)
        if said.get("text") is not None and question.startswith("critique"):
            wanted = question.replace("critique", "revision", 1)
            revisions = [_words(r["value"]) for r in others if isinstance(r, dict) and r.get("from_name") == wanted]
            return Critique(candidate=about, text=_words(said), revision=revisions[0] if revisions else None)
        return None


def _annotator(found: Any, maker: Maker) -> str | None:
    """`completed_by` is a number, or an object with the person's id and mail address."""
    if isinstance(found, dict):
        found = found.get("id") if found.get("id") is not None else found.get("email")
    return None if found is None else str(found)


def _shown(result: Mapping[str, Any], payload: Payload, task: Task) -> tuple[str, ...]:
    """The order that an export of alignkit noted; else two answers stand side by side, the first on the left."""
    meta = result.get("meta")
    if isinstance(meta, dict) and isinstance(meta.get("presented_order"), list):
        known = {c.id for c in task.candidates}
        return tuple(id for id in meta["presented_order"] if isinstance(id, str) and id in known)
    return tuple(c.id for c in task.candidates) if isinstance(payload, Pairwise) else ()


def _only(choices: Any) -> Any:
    return choices[0] if isinstance(choices, list) and len(choices) == 1 else None


def _ranked(ranker: Any, name: str) -> list[Any]:
    """The list, or the one bucket of the object. Raises BadRow for several buckets, which are classes, not ranks."""
    if isinstance(ranker, dict) and len(ranker) == 1:
        ranker = next(iter(ranker.values()))
    if not isinstance(ranker, list):
        raise BadRow(f"{name} is not one ordered list", reason="wrong ranking")
    return ranker


def _words(said: Mapping[str, Any]) -> str:
    found = said.get("text")
    return "\n".join(map(str, found)) if isinstance(found, list) else str(found)
