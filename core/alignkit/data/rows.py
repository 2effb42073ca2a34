"""Raw rows before they are records: what makes one unusable, and how one is parsed from JSON."""

import json
import re
from collections.abc import Iterator
from typing import Any

from alignkit.protocols import SourceRow

# Escapes that JSON allows and no tokenizer or UTF-8 file can hold: half a surrogate pair, and NUL.
_SUSPECT = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
SHOWN_CHARACTERS = 1000


class BadRow(ValueError):  # a plugin's author raises it for a row, as the protocol says
    """A row that cannot be used.

    `problem` is the sentence for the user, `reason` a few words to count by, `where` the place (`file:line`) and `row`
    what stood there. A format leaves both out about the row that it took last, whose place the reader knows; `row`
    alone shows something else of it. A row that turns out bad later is named: `where=row.where, row=row.row`.
    """

    def __init__(self, problem: str, *, where: str | None = None, reason: str | None = None, row: Any = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.reason = reason or problem
        self.row = row

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem


class Rows(Iterator[SourceRow]):
    """An iterator that raises BadRow for an unusable row and goes on behind it when asked for the next one.

    A generator is dead once it has raised; the caller decides whether a bad row ends the reading.
    """

    def __init__(self, found: Iterator[SourceRow | BadRow]) -> None:
        self._found = found

    def __next__(self) -> SourceRow:
        item = next(self._found)
        if isinstance(item, BadRow):
            raise item
        return item


def parse_object(text: str) -> dict[str, Any]:
    """One JSON object. Raises BadRow for bad JSON, other types, double keys, NaN, NUL or half a character."""
    try:
        row = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON: {error.msg} at column {error.colno}"
        raise BadRow(problem, reason="bad JSON", row=shown(text)) from None
    except BadRow as bad:
        raise BadRow(bad.problem, reason=bad.reason, row=shown(text)) from None
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, or brackets nested a thousand deep.
        raise BadRow(f"not usable JSON: {error}", reason="bad JSON", row=shown(text)) from None
    return checked_object(row, suspect=bool(_SUSPECT.search(text)))


def checked_object(row: Any, suspect: bool = True) -> dict[str, Any]:
    """`row` if it is an object whose texts can be written as UTF-8, which is looked at when `suspect`."""
    if not isinstance(row, dict):
        kind = json_type(row)
        raise BadRow(f"a row is a JSON object, this is {kind}", reason="not an object", row=row)
    if suspect:
        for text in _texts(row):
            check_text(text, row)
    return row


def check_text(text: str, row: Any) -> None:
    """Raise BadRow for a NUL character or half a surrogate pair."""
    if "\0" in text:
        raise BadRow("a text holds a NUL character", reason="NUL character", row=row)
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = "a text holds half of a surrogate pair, which is no character"
        raise BadRow(problem, reason="half a character", row=row) from None


def json_type(value: Any) -> str:
    """The name of a value's type as JSON calls it, with its article."""
    names: dict[type, str] = {
        type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text",
        list: "a list", tuple: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def shown(text: str) -> str:
    """The beginning of a damaged line, for the list of rejected rows."""
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRow(f"the key {twice!r} is given twice", reason="duplicate key")
    return row


def _no_constant(name: str) -> None:
    raise BadRow(f"not valid JSON: {name} is no JSON number", reason="bad JSON")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
