"""What to say when SQLite refuses: the disk is full, the file is damaged or may not be written, others hold it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from alignkit.errors import Fault


class StoreFault(Fault):
    """A file of SQLite's cannot be read or written now. What was acknowledged before is in it.

    `waits`: trying again soon may do, without anybody's help.
    """

    def __init__(self, what: str, *, where: Path, hint: str, waits: bool = False) -> None:
        super().__init__(what, where=where, hint=hint)
        self.waits = waits


class _Words(NamedTuple):
    what: str
    hint: str
    waits: bool = False


KEPT = "what was stored before is kept"
DAMAGED = _Words(
    "the database is damaged",
    "copy it away with the files beside it that have its name and -wal or -shm at the end; "
    "`sqlite3 FILE .recover` writes what can still be read as SQL",
)
# By SQLite's primary result code.
WORDS = {
    sqlite3.SQLITE_FULL: _Words("the disk is full", f"free space and go on: {KEPT}"),
    sqlite3.SQLITE_READONLY: _Words(
        "the database cannot be written",
        f"let who runs this write the file and its folder, or put back a file that was moved: {KEPT}",
    ),
    sqlite3.SQLITE_PERM: _Words("permission denied", f"let who runs this write the file and its folder: {KEPT}"),
    sqlite3.SQLITE_CANTOPEN: _Words(
        "the database cannot be opened", f"let who runs this write the file and its folder, -wal and -shm too: {KEPT}"
    ),
    sqlite3.SQLITE_IOERR: _Words(
        "the disk failed to read or write", f"look at the space that is left and at the system's log: {KEPT}"
    ),
    sqlite3.SQLITE_BUSY: _Words("another process has held the database for too long", f"end it or wait: {KEPT}", True),
    sqlite3.SQLITE_LOCKED: _Words(
        "another process has held the database for too long", f"end it or wait: {KEPT}", True
    ),
    sqlite3.SQLITE_CORRUPT: DAMAGED,
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Inside, what SQLite refuses to do with the file `path` becomes a StoreFault; other errors stay what they are."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        words = WORDS.get(getattr(found, "sqlite_errorcode", 0) & 0xFF)
        if words is None:
            raise
        raise StoreFault(f"{words.what} ({found})", where=path, hint=words.hint, waits=words.waits) from error
