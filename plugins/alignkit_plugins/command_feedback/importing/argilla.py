"""Records exported flat from Argilla: fields by their name, `QUESTION.responses` beside `QUESTION.responses.users`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Binary, Critique, Judgement, Pairwise, Payload, Ranking, Rating, Task
from alignkit_plugins.command_feedback.importing.items import (
    NUMBERED,
    Item,
    Maker,
    content,
    number,
    on_scale,
    row_object,
    scale_of,
    text,
)

RESPONSES, USERS, STATUS = ".responses", ".responses.users", ".responses.status"
ANSWER_NAMES = ("response", "answer", "reply", "completion", "generation")


class ArgillaOptions(Config):
    """Options of `argilla`."""

    prompt: str = Field("prompt", description="field with the prompt: text or a chat")
    answers: tuple[str, ...] = Field(
        (), description=f"fields with the answers, in order; default: {', '.join(f'{n}_1 …' for n in ANSWER_NAMES)}"
    )
    good: str = Field("good", description="label that calls an answer good")
    bad: str = Field("bad", description="label that calls an answer bad")
    tie: str = Field("tie", description="label of a tie between two answers")
    low: float = Field(1.0, description="the lower end of rating questions; a row's `rating_low` goes before")
    high: float = Field(7.0, description="the upper end of rating questions; a row's `rating_high` goes before")


class _Response(NamedTuple):
    question: str
    value: Any
    who: str
    status: str


class ArgillaForm:
    """A row is one task; every submitted response to a question about its answers is a judgement."""

    def __init__(self, options: ArgillaOptions, maker: Maker) -> None:
        self._options = options
        self._maker = maker

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task, under the record's own id if alignkit exported it."""
        row, lost = row_object(source), Counter[str]()
        names = numbered_answers(row, self._options.answers)
        prompt = content(row, self._options.prompt)
        candidates = self._maker.candidates(prompt, [text(row, name) for name in names])
        task = with_ids(self._maker.task(prompt, candidates), row)
        scale = scale_of(row, self._options.low, self._options.high)
        judgements: list[Judgement] = []
        for response in _responses(row, self._maker):
            if response.status == "draft":
                lost["drafts"] += 1
            elif response.status == "discarded" or response.value is None:
                judgements.append(self._maker.judgement(task, None, response.who, status="skipped"))
            else:
                payload = self._payload(response, dict(zip(names, task.candidates, strict=True)), scale, row)
                if payload is None:
                    if not _goes_with_critique(response, row):
                        lost[f"responses to {response.question}"] += 1
                else:
                    judgements.append(self._maker.judgement(task, payload, response.who))
        yield Item(task, _each_once(judgements), lost)

    def _payload(
        self, response: _Response, answers: Mapping[str, Any], scale: tuple[float, float], row: Mapping[str, Any]
    ) -> Payload | None:
        """What a response says, or None where the question is about something else."""
        said, name = response.value, f"the response to {response.question!r}"
        ids = {answer: candidate.id for answer, candidate in answers.items()}
        if isinstance(said, list):
            if not any(_named(entry) in ids for entry in said):
                return None  # a question with several labels, or about parts of a text
            return Ranking(groups=ranked_groups(said, ids, name))
        if len(ids) == 2 and isinstance(said, str) and (said in ids or said == self._options.tie):
            a, b = ids.values()
            return Pairwise(a=a, b=b, p_a=float(ids[said] == a) if said in ids else 0.5)
        if response.question.startswith("revision"):
            return None  # goes with the critique of the same person
        about = about_answer(response.question, ids)
        if about is None:
            return None
        if isinstance(said, int | float) and not isinstance(said, bool):
            rating = on_scale(number(said, name), *scale, name)
            return Rating(candidate=about, value=rating, low=scale[0], high=scale[1])
        if said in (self._options.good, self._options.bad):
            return Binary(candidate=about, good=said == self._options.good)
        if isinstance(said, str) and response.question.startswith("critique"):
            revision = _said_by(row, response.question.replace("critique", "revision", 1), response.who)
            return Critique(candidate=about, text=said, revision=revision)
        return None


def numbered_answers(row: Mapping[str, Any], named: Sequence[str]) -> list[str]:
    """Names of the columns with answers: those `named`, else response_1, response_2 … Raises BadRow for none."""
    if named:
        return list(named)
    for name in ANSWER_NAMES:
        found = {
            int(match["number"]): column
            for column, there in row.items()
            if (match := NUMBERED.match(column)) and match["name"] == name and isinstance(there, str)
        }
        if found:
            return [found[n] for n in sorted(found)]
    raise BadRow(f"no answers: no column like response_1; the row has {', '.join(map(repr, row))}", reason="no answers")


def with_ids(task: Task, row: Mapping[str, Any]) -> Task:
    """The task under the ids that its export wrote, so that judgements find the task they are about."""
    ids, task_id = row.get("candidate_ids"), row.get("task_id")
    if not isinstance(task_id, str) or not isinstance(ids, list) or len(ids) != len(task.candidates):
        return task
    if not all(isinstance(id, str) for id in ids) or len(set(ids)) != len(ids):
        raise BadRow("'candidate_ids' is not a list of different texts", reason="wrong ids")
    named = tuple(c.model_copy(update={"id": id}) for c, id in zip(task.candidates, ids, strict=True))
    return task.model_copy(update={"id": task_id, "candidates": named})


def ranked_groups(said: Sequence[Any], ids: Mapping[str, str], name: str) -> tuple[tuple[str, ...], ...]:
    """Candidate ids by rank, from answers in order or from {value, rank} with equal ranks for ties. Raises BadRow."""
    ranks: dict[int, list[str]] = {}
    for place, entry in enumerate(said, 1):
        answer, rank = (entry.get("value"), entry.get("rank")) if isinstance(entry, dict) else (entry, place)
        if not isinstance(answer, str) or answer not in ids or isinstance(rank, bool) or not isinstance(rank, int):
            raise BadRow(f"{name}: {entry!r} is not the rank of one of {', '.join(ids)}", reason="wrong ranking")
        ranks.setdefault(rank, []).append(ids[answer])
    flat = [id for group in ranks.values() for id in group]
    if sorted(flat) != sorted(ids.values()):
        raise BadRow(f"{name} does not rank each answer once", reason="wrong ranking")
    return tuple(tuple(ranks[rank]) for rank in sorted(ranks))


def about_answer(question: str, ids: Mapping[str, str]) -> str | None:
    """The candidate a question like `rating_2` is about, or the only one there is.

    The number is that in the answer's own name, as in `response_2`; its place only where no answer's name has one. None
    where no answer has the number, or several have.
    """
    match = NUMBERED.match(question)
    if match is None:
        return next(iter(ids.values())) if len(ids) == 1 else None
    names = [NUMBERED.match(name) for name in ids]
    numbers = [int(name["number"]) if name else None for name in names] if any(names) else range(1, len(ids) + 1)
    found = [id for number, id in zip(numbers, ids.values(), strict=True) if number == int(match["number"])]
    return found[0] if len(found) == 1 else None


def _responses(row: Mapping[str, Any], maker: Maker) -> Iterator[_Response]:
    for column in [name for name in row if name.endswith(RESPONSES)]:
        values = row.get(column)
        if values is None:
            continue
        question = column.removesuffix(RESPONSES)
        values = values if isinstance(values, list) else [values]
        users, status = row.get(question + USERS), row.get(question + STATUS)
        users = [maker.voter(n) for n in range(1, len(values) + 1)] if users is None else users
        status = ["submitted"] * len(values) if status is None else status
        if not (isinstance(users, list) and isinstance(status, list) and len(users) == len(status) == len(values)):
            raise BadRow(f"{column!r} and its users and status are not lists of one length", reason="wrong responses")
        for said, who, state in zip(values, users, status, strict=True):
            yield _Response(question, said, str(who), str(state))


def _said_by(row: Mapping[str, Any], question: str, who: str) -> str | None:
    values, users = row.get(question + RESPONSES), row.get(question + USERS)
    if not isinstance(values, list) or not isinstance(users, list):
        return None
    found = [said for said, user in zip(values, users, strict=False) if str(user) == who and isinstance(said, str)]
    return found[0] if found else None


def _named(entry: Any) -> str | None:
    """The answer's name in an entry of a ranking."""
    name = entry.get("value") if isinstance(entry, dict) else entry
    return name if isinstance(name, str) else None


def _goes_with_critique(response: _Response, row: Mapping[str, Any]) -> bool:
    if not response.question.startswith("revision") or not isinstance(response.value, str):
        return False
    return _said_by(row, response.question.replace("revision", "critique", 1), response.who) is not None


def _each_once(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Who discards a record with several questions is told once for each of them."""
    return list({j.id: j for j in judgements}.values())
