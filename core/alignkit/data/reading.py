"""Runs a data format over rows so that a bad one, wherever found, has a place and need not be the end."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from alignkit.data.rows import BadRow
from alignkit.errors import AlignkitError, UserError
from alignkit.protocols import DataFormat, SourceRow

_END: Any = object()


class TakenRows(Iterator[SourceRow]):
    """Rows as a format takes them, and what became of each: `count` is the sum of the outcomes.

    A row was used (a record came before the next row was taken), refused (by the reader, or by the format), or is
    silent: joined with others, or passed over. `refused_later`, no part of the sum, are rows that had given records.
    """

    def __init__(self, rows: Iterator[SourceRow]) -> None:
        self._rows = rows
        self._open = False  # the last row has no outcome yet
        self._gave = False  # a record came of the last row
        self._unread: BadRow | None = None
        self.count = 0
        self.used = 0
        self.refused = 0
        self.silent = 0
        self.refused_later = 0
        self.first_silent: str | None = None
        self.last: SourceRow | None = None
        self.failed: Exception | None = None

    def __next__(self) -> SourceRow:
        self.close()
        try:
            self.last = next(self._rows)
        except StopIteration:
            raise
        except BadRow as bad:
            self.count += bad.rows
            self.refused += bad.rows
            self._unread = bad
            raise
        except Exception as error:
            self.failed = error
            raise
        self.count += 1
        self._open, self._gave = True, False
        return self.last

    def close(self) -> None:
        """The last row will get no outcome any more."""
        if self._open:
            self.silent += 1
            self._open = False
            if self.first_silent is None and self.last is not None:
                self.first_silent = self.last.where

    def give(self) -> None:
        """A record came."""
        self.used += self._open
        self._gave = self._gave or self._open
        self._open = False

    def refuse(self, bad: BadRow) -> None:
        """A complaint came; that of the reader is counted already."""
        if bad is self._unread:
            return
        rows = bad.rows
        if self._open:
            self._open = False
            self.refused += 1
            rows -= 1
        elif self._gave and self.last is not None and bad.where in (None, self.last.where):
            self.refused_later += 1
            rows -= 1
        of_silent = min(rows, self.silent)
        self.silent -= of_silent
        self.refused += of_silent
        self.refused_later += rows - of_silent


def read_with(
    data_format: DataFormat,
    rows: TakenRows,
    on_bad: Callable[[BadRow], None],
    accept: Callable[[Any], None] = lambda found: None,
    blamed: Callable[[str, Exception], BaseException] = lambda what, error: error,
) -> Iterator[Any]:
    """Everything that a format gives; `on_bad` gets the bad rows, with place and content.

    `accept` raises BadRow for what cannot be used. `blamed("failed at FILE:LINE", error)` is raised in place of an
    error that is none of a bad row.

    A generator that has raised is dead, so the format starts again on the rows behind a bad one; what it must
    remember from row to row it keeps in itself. It may also find rows bad that it read long ago, one at a time, if it
    names their places. Raises UserError for a complaint that is neither: asking again would never end.
    """
    late: set[str] = set()
    while True:
        before = rows.count
        try:
            for found in _guarded(data_format, rows, blamed):
                accept(found)
                rows.give()
                yield found
            rows.close()
            return
        except BadRow as bad:
            problem = bad
        except ValidationError as error:
            problem = _invalid(error)
        rows.refuse(problem)
        if rows.count == before:
            _check_late(problem, late, rows.count)
        if problem.where is None and rows.last is not None:
            problem.where = rows.last.where
            problem.row = rows.last.row if problem.row is None else problem.row
        on_bad(problem)


def _guarded(
    data_format: DataFormat, rows: TakenRows, blamed: Callable[[str, Exception], BaseException]
) -> Iterator[Any]:
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
            raise blamed(f"failed at {where}", error) from error
        if found is _END:
            return
        yield found


def _check_late(problem: BadRow, late: set[str], rows: int) -> None:
    if problem.where is None or problem.where in late or len(late) >= rows:
        raise UserError(
            f"{problem.problem} (the data format complains without reading on)",
            where=problem.where,
            hint="a format that finds a bad row later says which: BadRow(…, where=row.where), once for each row",
        )
    late.add(problem.where)


def _invalid(error: ValidationError) -> BadRow:
    first = error.errors()[0]
    field = ".".join(str(p) for p in first["loc"])
    return BadRow(f"not a {error.title}: {field}: {first['msg']}", reason=f"not a {error.title}")
