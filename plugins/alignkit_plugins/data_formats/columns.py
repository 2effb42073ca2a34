"""Reading the columns of one row, each problem named: which column, what stands there instead."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from alignkit.data.kinds import CONVERT
from alignkit.data.rows import BadRow, brief, json_type
from alignkit.errors import did_you_mean
from alignkit.protocols import SourceRow
from alignkit.records import Content, Message, Prompt
from alignkit_plugins.data_formats.exports import advice, table_by_columns

SHOWN_COLUMNS = 20
ROLES = ("system", "developer", "user", "assistant", "tool")


def row_object(source: SourceRow) -> dict[str, Any]:
    """The row as a dict. Raises BadRow for a line of plain text."""
    if isinstance(source.row, dict):
        return source.row
    raise BadRow(
        f"this is {json_type(source.row)}, a row is an object with columns (format `text` reads plain text)",
        reason="not an object",
    )


def value(row: dict[str, Any], column: str) -> Any:
    """A column that must be there and not null."""
    if column not in row:
        hint = did_you_mean(column, _first(row)) or f"; the row has {_listed(row) or 'no column'}"
        raise BadRow(f"column {column!r} is missing{hint}{advice(row, column)}", reason="missing column")
    if row[column] is None:
        raise BadRow(f"column {column!r} is null", reason="missing column")
    return row[column]


def _first(row: dict[str, Any]) -> list[str]:
    """Some names of columns: a row may have any number, of any length."""
    return [name[:100] for name in islice(row, SHOWN_COLUMNS)]


def _listed(row: dict[str, Any]) -> str:
    more = f" and {len(row) - SHOWN_COLUMNS} more" if len(row) > SHOWN_COLUMNS else ""
    return ", ".join(map(brief, islice(row, SHOWN_COLUMNS))) + more


def content(row: dict[str, Any], column: str) -> Content:
    """A column that holds text or a list of messages; may be empty."""
    found = value(row, column)
    if isinstance(found, str):
        return found
    if isinstance(found, list | tuple):
        return messages(found, column)
    problem = f"column {column!r} is {json_type(found)}, not text or a list of messages"
    if isinstance(found, dict) and table_by_columns(found):
        problem += f"; this is a table written by columns: {CONVERT}"
    raise BadRow(problem, reason="wrong type")


def filled(row: dict[str, Any], column: str) -> Content:
    """As `content`, and not empty."""
    found = content(row, column)
    check_filled(found, column)
    return found


def check_filled(found: Content, name: str) -> None:
    """Raise BadRow unless there is something to read: text, or a message with text at the end."""
    last = found if isinstance(found, str) else found[-1].content if found else ""
    if not last.strip():
        raise BadRow(f"{name!r} is empty", reason=f"empty {name}")


def messages(found: list[Any] | tuple[Any, ...], column: str) -> tuple[Message, ...]:
    """Chat messages with role and content."""
    return tuple(_message(item, f"message {n} of {column!r}") for n, item in enumerate(found, 1))


def _message(item: Any, name: str) -> Message:
    if not isinstance(item, dict):
        raise BadRow(f"{name} is {json_type(item)}, not an object with role and content", reason="wrong type")
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            has = f"is {json_type(item[key])}" if key in item else f"is missing; it has {_listed(item)}"
            if "from" in item and "value" in item:
                has += "; write ShareGPT's from (human, gpt) and value as role (user, assistant) and content"
            raise BadRow(f"{key!r} of {name} {has}", reason="wrong type" if key in item else "missing column")
    if item["role"] not in ROLES:
        known = did_you_mean(item["role"][:100], list(ROLES)) or f"; known: {', '.join(ROLES)}"
        raise BadRow(f"{name} has the role {brief(item['role'])}{known}", reason="unknown role")
    # Parquet fills keys that only some messages have with null.
    more = [key for key, v in item.items() if key not in ("role", "content") and v is not None]
    if more:
        raise BadRow(
            f"{name} has {brief(more[0])}, which would be lost: only role and content are kept", reason="extra key"
        )
    return Message(role=item["role"], content=item["content"])


def same_form(first: Content, second: Content, names: str) -> None:
    """Raise BadRow when one of two columns is text and the other messages."""
    if isinstance(first, str) != isinstance(second, str):
        raise BadRow(f"{names}: one is text and the other a list of messages", reason="wrong type")


def number(row: dict[str, Any], column: str) -> float:
    """A finite number."""
    found = value(row, column)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise BadRow(f"column {column!r} is {json_type(found)}, not a number", reason="wrong type")
    if not -1e300 < found < 1e300:
        raise BadRow(f"column {column!r} is {found!r}, not a finite number", reason="wrong type")
    return float(found)


def boolean(row: dict[str, Any], column: str) -> bool:
    """True or false; not 0 and 1, which could be ratings."""
    found = value(row, column)
    if not isinstance(found, bool):
        raise BadRow(f"column {column!r} is {json_type(found)}, not true or false", reason="wrong type")
    return found


class NewPrompts:
    """Gives each prompt once: rows often share one, and a policy needs to see it once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._empty = 0

    def of(self, found: Content) -> Iterator[tuple[str, Prompt]]:
        """The part and record of `found`, or nothing if it came before or is empty."""
        if not found:
            self._empty += 1
            return
        prompt = Prompt(prompt=found)
        if prompt.id not in self._seen:
            self._seen.add(prompt.id)
            yield "prompts", prompt

    def notes(self) -> dict[str, Any]:
        """For the summary: rows whose prompt is empty, which is nothing to ask."""
        return {"rows_without_prompt": self._empty} if self._empty else {}
