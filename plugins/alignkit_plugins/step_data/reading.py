"""Runs a data format over sources so that a bad row, wherever found, has a place and need not be the end."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from alignkit.context import HELDOUT, PARTS
from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import AlignkitError, UserError, did_you_mean
from alignkit.manager import Registered
from alignkit.protocols import DataFormat, SourceRow
from alignkit.records import Record

_END: Any = object()
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
        self.failed: Exception | None = None

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
            except Exception as error:
                self.failed = error
                raise
            self.count += 1
            return self.last


def read_records(
    data_format: DataFormat,
    registered: Registered,
    rows: Sources,
    on_bad: Callable[[BadRow], None],
    accept: Callable[[str, Record], None] = lambda part, record: None,
) -> Iterator[tuple[str, Record]]:
    """Every (part, record) of a format; `on_bad` gets the bad rows, with place and content.

    `accept` raises BadRow for a part and record that the step cannot use.

    A generator that has raised is dead, so the format starts again on the rows behind a bad one; what it must
    remember from row to row it keeps in itself. It may also find rows bad that it read long ago, one at a time, if it
    names their places.
    """
    late: set[str] = set()
    while True:
        before = rows.count
        try:
            for found in _guarded(data_format, registered, rows):
                part, record = _checked(registered.component.name, found)
                accept(part, record)
                yield part, record
            return
        except BadRow as bad:
            problem = bad
        except ValidationError as error:
            problem = _invalid(error)
        if rows.count == before:
            _check_late(problem, late, rows, registered)
        if problem.where is None and rows.last is not None:
            problem.where = rows.last.where
            problem.row = rows.last.row if problem.row is None else problem.row
        on_bad(problem)


def _guarded(data_format: DataFormat, registered: Registered, rows: Sources) -> Iterator[Any]:
    """What the format gives; what it fails with, other than a bad row, has its owner's name and the row's place."""
    records = iter(data_format.records(rows))
    while True:
        try:
            found = next(records, _END)
        except (BadRow, ValidationError, AlignkitError):
            raise
        except Exception as error:
            if error is rows.failed:  # a file that cannot be read
                raise
            where = rows.last.where if rows.last is not None else "the first row"
            raise registered.blamed(f"failed at {where}", error) from error
        if found is _END:
            return
        yield found


def _check_late(problem: BadRow, late: set[str], rows: Sources, registered: Registered) -> None:
    """Raise UserError for a complaint without reading that is not about one more row: asking again would never end."""
    if problem.where is None or problem.where in late or len(late) >= rows.count:
        name = registered.component.name
        raise UserError(
            f"{problem.problem} (the format {name!r} complains without reading on)",
            where=problem.where or f"format {name}",
            hint="a format that finds a bad row later says which: BadRow(…, where=row.where), once for each row",
        )
    late.add(problem.where)


def _invalid(error: ValidationError) -> BadRow:
    first = error.errors()[0]
    field = ".".join(str(p) for p in first["loc"])
    return BadRow(f"not a {error.title}: {field}: {first['msg']}", reason=f"not a {error.title}")


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
