"""What one row of a foreign file becomes: a task with its judgements, under ids that are the same in every import."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from alignkit.data.rows import BadRow, json_type
from alignkit.protocols import SourceRow
from alignkit.records import (
    Annotator,
    Candidate,
    Content,
    Evidence,
    Judgement,
    Message,
    Payload,
    Prompt,
    Sampling,
    Task,
    content_id,
)

IMPORTED = "imported"
Kind = Literal["human", "model"]
# "good", "answer_1", "rating of 3": what stands before the number of a candidate in a column's or question's name.
NUMBERED = re.compile(r"^(?P<name>.*?)[-_ ]?(?P<number>\d{1,6})$")


class Item(NamedTuple):
    """A task and what was said about it; `lost` counts what the row had and no record holds."""

    task: Task
    judgements: Sequence[Judgement]
    lost: Counter[str]


class Form(Protocol):
    """A form of files."""

    def items(self, source: SourceRow) -> Iterator[Item]:
        """The items of one row. Raises BadRow for one that cannot be used."""
        ...


class Watched(dict[str, Any]):
    """A row that notes which of its columns were asked for by name."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self._read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self._read.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        """As of a dict."""
        self._read.add(column)
        return super().get(column, default)

    def unread(self) -> list[str]:
        """Columns with a value that nobody asked for."""
        return [column for column, there in self.items() if there is not None and column not in self._read]


@runtime_checkable
class Finishes(Protocol):
    """A form that has something to say about all rows together."""

    def finish(self) -> None:
        """Called after the last row. Raises UserError."""
        ...


class Maker(NamedTuple):
    """Makes records for an import. `name` is the annotator where rows name none, and of which `kind` all are."""

    name: str
    kind: Kind

    def candidates(self, prompt: Content, completions: Sequence[str]) -> list[Candidate]:
        """Equal texts of one task stay apart; the same text of another row has the same id."""
        prompt_id, seen = Prompt(prompt=prompt).id, Counter[str]()
        found = []
        for text in completions:
            again = (str(seen[text]),) if seen[text] else ()
            seen[text] += 1
            found.append(
                Candidate(
                    id=content_id(IMPORTED, prompt, text, *again),
                    prompt_id=prompt_id,
                    prompt=prompt,
                    completion=text,
                    policy_revision=IMPORTED,
                    sampling=Sampling(),
                    seed=0,
                    prompt_ids=(),
                    completion_ids=(),
                    finish_reason="stop",
                )
            )
        return found

    def task(self, prompt: Content, candidates: Sequence[Candidate], id: str = "") -> Task:
        """A task of these candidates; without an `id` the same one in whatever order they come."""
        made = content_id(IMPORTED, prompt, *sorted(c.id for c in candidates))
        return Task(id=id or made, prompt=prompt, candidates=tuple(candidates))

    def judgement(self, task: Task, payload: Payload | None, who: str | None = None, **more: Any) -> Judgement:
        """The same words of the same annotator have the same id, so that importing twice adds nothing."""
        annotator = Annotator(id=who or self.name, kind=self.kind)
        said = "" if payload is None else payload.model_dump_json()
        id = content_id(IMPORTED, task.id, annotator.id, said, more.get("status", "ok"))
        return Judgement(id=id, task_id=task.id, annotator=annotator, payload=payload, **more)

    def no_answer(self, task: Task, who: str | None = None, text: str = "") -> Judgement:
        """Somebody was asked and gave no usable answer: a person who passed, or a model that was not understood."""
        if self.kind == "human":
            return self.judgement(task, None, who, status="skipped")
        return self.judgement(task, None, who, status="parse_error", evidence=Evidence(text=text) if text else None)

    def voter(self, number: int) -> str:
        """The name of an annotator of whom only the number in the row is known."""
        return f"{self.name}-{number}"


def apart(task: Task, seen: Counter[str]) -> Task:
    """The task, under another id if `seen` has it: where a row has all votes on an item, an equal row is another item.

    Its unnamed voters are other people than those of the row before.
    """
    seen[task.id] += 1
    again = seen[task.id]
    return task if again == 1 else task.model_copy(update={"id": content_id(task.id, str(again))})


def row_object(source: SourceRow) -> dict[str, Any]:
    """The row as a dict. Raises BadRow for a line of plain text."""
    if isinstance(source.row, dict):
        return source.row
    raise BadRow(f"a row is an object, this is {json_type(source.row)}", reason="not an object")


def value(row: dict[str, Any], column: str) -> Any:
    """A column that must be there and not null."""
    if row.get(column) is None:
        raise BadRow(
            f"column {column!r} is {'null' if column in row else 'missing'}; the row has {', '.join(map(repr, row))}",
            reason="missing column",
        )
    return row[column]


def text(row: dict[str, Any], column: str) -> str:
    """A column with text, which may be empty."""
    found = value(row, column)
    if not isinstance(found, str):
        raise BadRow(f"column {column!r} is {json_type(found)}, not text", reason="wrong type")
    return found


def content(row: dict[str, Any], column: str) -> Content:
    """A column with text or chat messages."""
    found = value(row, column)
    if isinstance(found, str):
        return found
    if not isinstance(found, list | tuple):
        raise BadRow(f"column {column!r} is {json_type(found)}, not text or messages", reason="wrong type")
    return tuple(_message(turn, column) for turn in found)


def _message(turn: Any, column: str) -> Message:
    if not (isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
        raise BadRow(f"column {column!r} is a list of something else than messages", reason="wrong type")
    more = [key for key, there in turn.items() if key not in ("role", "content") and there is not None]
    if more:
        raise BadRow(f"a message of {column!r} has {more[0]!r}, which would be lost", reason="extra key")
    return Message(role=turn["role"], content=turn["content"])


def number(found: Any, name: str) -> float:
    """A finite number, also one written as text. Raises BadRow."""
    try:
        if isinstance(found, bool) or not isinstance(found, int | float | str):
            raise ValueError
        result = float(found)
    except (ValueError, OverflowError):
        raise BadRow(f"{name} is {found!r}, not a number", reason="wrong type") from None
    if not -1e300 < result < 1e300:
        raise BadRow(f"{name} is {found!r}, not a finite number", reason="wrong type")
    return result


def on_scale(found: float, low: float, high: float, name: str) -> float:
    """A rating inside its scale. Raises BadRow."""
    if not low <= found <= high:
        raise BadRow(f"{name} is {found:g}, outside the scale {low:g} to {high:g}", reason="rating off the scale")
    return found


def scale_of(row: Mapping[str, Any], low: float, high: float) -> tuple[float, float]:
    """The rating scale that a row brings, else the given one. Raises BadRow."""
    ends = [
        number(row.get(key), key) if row.get(key) is not None else end
        for key, end in (("rating_low", low), ("rating_high", high))
    ]
    if ends[0] >= ends[1]:
        raise BadRow(f"the rating scale goes from {ends[0]:g} to {ends[1]:g}", reason="wrong scale")
    return ends[0], ends[1]


def single_answer(found: Content, column: str) -> str:
    """The text of an answer: as it is, or that of the one message it consists of. Raises BadRow for several turns."""
    if isinstance(found, str):
        return found
    if len(found) != 1 or found[0].role != "assistant":
        turns = ", ".join(m.role for m in found) or "none"
        raise BadRow(
            f"{column!r} has the turns {turns} behind the common prompt; a candidate is one answer of the assistant",
            reason="several turns",
        )
    return found[0].content
