"""Raw rows before they are records: what makes one unusable, and how one is parsed from JSON."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from alignkit.protocols import SourceRow

# Escapes that JSON allows and no tokenizer or UTF-8 file can hold: half a surrogate pair, and NUL.
_SUSPECT = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
# A text of JSON, ended or not: never fails once it has begun, so that a broken row takes no longer than a good one.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
SHOWN_CHARACTERS = 1000
MAX_DEPTH = 64
MAX_VALUES = 250_000
# Rows of this length are looked at before they are parsed: `[],` is 3 bytes in the file and 64 in memory.
LONG = 1024 * 1024


class BadRow(ValueError):  # a plugin's author raises it for a row, as the protocol says
    """A row that cannot be used.

    `problem` is the sentence for the user, `reason` a few words to count by, `where` the place (`file:line`) and `row`
    what stood there. A format leaves both out about the row that it took last, whose place the reader knows; `row`
    alone shows something else of it. A row that turns out bad later is named: `where=row.where, row=row.row`.
    `rows` is how many rows the complaint is about, where they are more than one; `ends_file` says that what stands
    behind in the same file cannot be read.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        reason: str | None = None,
        row: Any = None,
        rows: int = 1,
        ends_file: bool = False,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.reason = reason or problem
        self.row = row
        self.rows = rows
        self.ends_file = ends_file

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
    """One JSON object.

    Raises BadRow for bad JSON, other types, double keys, NaN, NUL, half a character, too many values or levels.
    """
    try:
        check_values(text)
        row = _DECODER.decode(text)
        if isinstance(row, dict | list) and text.count("[") + text.count("{") > MAX_DEPTH:
            check_depth(row)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON: {json_problem(error)} at column {error.colno}"
        raise BadRow(problem, reason="bad JSON", row=shown(text)) from None
    except BadRow as bad:
        raise BadRow(bad.problem, reason=bad.reason, row=shown(text)) from None
    except RecursionError:
        raise BadRow(_TOO_DEEP, reason="nested too deeply", row=shown(text)) from None
    except ValueError:  # the only one that is left
        problem = f"not usable JSON: a whole number of more than {sys.get_int_max_str_digits():,} digits"
        raise BadRow(problem, reason="bad JSON", row=shown(text)) from None
    return checked_object(row, suspect=bool(_SUSPECT.search(text)))


def check_values(text: str) -> None:
    """Raise BadRow for a long text with more JSON values than memory should be spent on; it need not be valid."""
    if len(text) < LONG:
        return
    bare = _STRING.sub("", text)
    if bare.count(",") + bare.count("[") + bare.count("{") > MAX_VALUES:
        raise BadRow(f"more than {MAX_VALUES:,} values in one row", reason="too many values")


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def check_depth(row: Any) -> None:
    """Raise BadRow for lists and objects inside each other that are too deep for what comes after the reader."""
    level = [row]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value) if isinstance(inner, dict | list | tuple)]
        if not level:
            return
    raise BadRow(_TOO_DEEP, reason="nested too deeply", row=None)


def checked_object(row: Any, suspect: bool = True) -> dict[str, Any]:
    """`row` if it is an object whose texts can be written as UTF-8, which is looked at when `suspect`."""
    if not isinstance(row, dict):
        kind = json_type(row)
        raise BadRow(f"a row is a JSON object, this is {kind}", reason="not an object", row=row)
    if suspect:
        check_depth(row)
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


def was_cut(row: Any) -> bool:
    """Whether `row` is what `shown` made of a longer one."""
    return isinstance(row, str) and len(row) == SHOWN_CHARACTERS + 1 and row.endswith("…")


def json_problem(error: json.JSONDecodeError) -> str:
    """What the parser says, without the word that its own place would follow."""
    return error.msg.rstrip(": ").removesuffix(" at")


def first_line(error: BaseException) -> str:
    """What another library says; its class, where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def brief(name: str) -> str:
    """A key or word in quotes, shortened: a message stays readable whatever the file holds."""
    return repr(name if len(name) <= 60 else name[:60] + "…")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadRow(f"the key {brief(key)} is given twice", reason="duplicate key")
            seen.add(key)
    return row


def _no_constant(name: str) -> None:
    raise BadRow(f"not valid JSON: {name} is no JSON number", reason="bad JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _inside(value: Any) -> Any:
    """The values that a list or object holds."""
    return value.values() if isinstance(value, dict) else value


def _texts(row: dict[str, Any]) -> Iterator[str]:
    """Every text and key; `row` is not too deep."""
    for key, value in row.items():
        yield key
        yield from _texts_of(value)


def _texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(value)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_of(inner)
