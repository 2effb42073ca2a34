"""The records of the step's sources: rows of several files in one stream, and what the format makes of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alignkit.context import HELDOUT, PARTS
from alignkit.data.reading import TakenRows, read_with
from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError, did_you_mean
from alignkit.manager import Registered
from alignkit.protocols import DataFormat, SourceRow
from alignkit.records import Record

_PART_NAMES = {*PARTS, *(HELDOUT + part for part in PARTS)}


class _Chained(Iterator[SourceRow]):
    """The rows of several sources. Raises BadRow and goes on behind it."""

    def __init__(self, sources: Sequence[str], split: str | None) -> None:
        self._sources = list(sources)
        self._split = split
        self._rows: Iterator[SourceRow] = iter(())

    def __next__(self) -> SourceRow:
        while True:
            try:
                return next(self._rows)
            except StopIteration:
                if not self._sources:
                    raise
            self._rows = read_rows(self._sources.pop(0), self._split)


def rows_of(sources: Sequence[str], split: str | None) -> TakenRows:
    """All rows of the step, in the order of its sources."""
    return TakenRows(_Chained(sources, split))


def read_records(
    data_format: DataFormat,
    registered: Registered,
    rows: TakenRows,
    on_bad: Callable[[BadRow], None],
    accept: Callable[[str, Record], None] = lambda part, record: None,
) -> Iterator[tuple[str, Record]]:
    """Every (part, record) of a format; `on_bad` gets the bad rows, with place and content.

    `accept` raises BadRow for a part and record that the step cannot use. What a stranger's format fails with has
    its owner's name.
    """

    def checked(found: Any) -> None:
        accept(*_checked(registered.component.name, found))

    yield from read_with(data_format, rows, on_bad, checked, registered.blamed)


def _checked(name: str, found: Any) -> tuple[str, Record]:
    """A format is a stranger's code: what it gives is looked at before it is written."""
    part, record = found if isinstance(found, tuple) and len(found) == 2 else (None, found)
    if part is None:
        problem = f"gave a {type(found).__name__}, not a pair (part, record)"
    elif part not in _PART_NAMES:
        problem = f"gave the part {part!r}{did_you_mean(part, sorted(_PART_NAMES))}; parts: {', '.join(PARTS)}"
    elif not isinstance(record, PARTS[part.removeprefix(HELDOUT)]):
        problem = f"gave a {type(record).__name__} for the part {part!r}"
    else:
        return part, record
    raise UserError(f"the data format {problem}", where=f"format {name}", hint="tell its author")
