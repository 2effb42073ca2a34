"""Runs a data format over sources so that a bad row, wherever found, has a place and need not be the end."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from alignkit.context import HELDOUT, PARTS
from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError, did_you_mean
from alignkit.protocols import DataFormat, SourceRow
from alignkit.records import Record

_PART_NAMES = {*PARTS, *(HELDOUT + part for part in PARTS)}


class Sources(Iterator[SourceRow]):
    """The rows of several sources, counted; remembers the last one for messages.

    Raises BadRow and goes on behind it.
    """

    def __init__(self, sources: Sequence[str], split: str | None) -> None:
        self._sources = list(sources)
        self._split = split
        self._rows: Iterator[SourceRow] = iter(())
        self.count = 0
        self.last: SourceRow | None = None

    def __next__(self) -> SourceRow:
        while True:
            try:
                self.last = next(self._rows)
            except StopIteration:
                if not self._sources:
                    raise
                self._rows = read_rows(self._sources.pop(0), self._split)
                continue
            except BadRow:
                self.count += 1
                raise
            self.count += 1
            return self.last


def read_records(
    data_format: DataFormat,
    name: str,
    rows: Sources,
    on_bad: Callable[[BadRow], None],
    accept: Callable[[str, Record], None] = lambda part, record: None,
) -> Iterator[tuple[str, Record]]:
    """Every (part, record) of the format called `name`; `on_bad` gets the bad rows, with place and content.

    `accept` raises BadRow for a part and record that the step cannot use.

    A generator that has raised is dead, so the format starts again on the rows behind a bad one; what it must
    remember from row to row it keeps in itself.
    """
    while True:
        before = rows.count
        try:
            for part, record in data_format.records(rows):
                _check(name, part, record)
                accept(part, record)
                yield part, record
            return
        except BadRow as bad:
            problem = bad
        except ValidationError as error:
            problem = _invalid(error)
        if problem.where is None and rows.last is not None:
            problem.where, problem.row = rows.last.where, rows.last.row
        if rows.count == before:
            # It complains without reading: starting it again would never end.
            raise UserError(problem.problem, where=problem.where or f"format {name}")
        on_bad(problem)


def _invalid(error: ValidationError) -> BadRow:
    first = error.errors()[0]
    field = ".".join(str(p) for p in first["loc"])
    return BadRow(f"not a {error.title}: {field}: {first['msg']}", reason=f"not a {error.title}")


def _check(name: str, part: str, record: Any) -> None:
    """A format is a stranger's code: what it gives is looked at before it is written."""
    if part not in _PART_NAMES:
        problem = f"gave the part {part!r}{did_you_mean(part, sorted(_PART_NAMES))}; parts: {', '.join(PARTS)}"
    elif not isinstance(record, PARTS[part.removeprefix(HELDOUT)]):
        problem = f"gave a {type(record).__name__} for the part {part!r}"
    else:
        return
    raise UserError(f"the data format {problem}", where=f"format {name}", hint="tell its author")
