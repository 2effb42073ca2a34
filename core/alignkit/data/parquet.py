"""Rows of Parquet files, a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignkit.data.lines import MAX_BYTES
from alignkit.data.rows import BadRow, checked_object, first_line
from alignkit.protocols import SourceRow

# Few: a page of a kilobyte may stand for rows of megabytes, each a reference to the same text.
_BATCH_ROWS = 16


def parquet_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    """Every row as a dict. A value that Python cannot hold costs its row; behind a damaged page nothing is read.

    pyarrow unpacks a page at a time, and it is the writer of the file who decides how large a page is.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            twice = _given_twice(file.schema_arrow.names)
            if twice is not None:
                problem = f"the file has two columns {twice!r}; none of its rows is read"
                yield BadRow(problem, where=f"{path}:1", reason="duplicate key", ends_file=True)
                return
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                for row in _rows_of(batch, path, number):
                    number += 1
                    yield row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = f"the parquet file is damaged ({first_line(error)}); the rows from here on are lost"
        yield BadRow(problem, where=f"{path}:{number + 1}", reason="damaged parquet", ends_file=True)


def _rows_of(batch: Any, path: Path, before: int) -> Iterator[SourceRow | BadRow]:
    places = [f"{path}:{before + n}" for n in range(1, batch.num_rows + 1)]
    if batch.nbytes <= MAX_BYTES:
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError):  # one by one below, to find out which it is
            pass
        else:
            yield from (checked(where, row) for where, row in zip(places, rows, strict=True))
            return
    for n, where in enumerate(places):
        yield _row_of(batch.slice(n, 1), where)


def _row_of(one: Any, where: str) -> SourceRow | BadRow:
    if one.nbytes > MAX_BYTES:
        return BadRow(f"a row is longer than {MAX_BYTES // 1024**2} MiB", where=where, reason="row too long")
    try:
        return checked(where, one.to_pylist()[0])
    except UnicodeDecodeError as error:
        return BadRow(f"a text is not UTF-8 ({error.reason})", where=where, reason="not UTF-8")
    except (ValueError, OverflowError) as error:  # such as a date after the year 9999
        return BadRow(f"a value cannot be read: {first_line(error)}", where=where, reason="wrong type")


def checked(where: str, row: Any) -> SourceRow | BadRow:
    """A row that another library read, or what is wrong with it."""
    try:
        return SourceRow(where, checked_object(row))
    except BadRow as bad:
        bad.where = where
        return bad


def _given_twice(names: list[str]) -> str | None:
    return next((name for n, name in enumerate(names) if name in names[:n]), None)
