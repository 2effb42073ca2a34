"""One SQLite file: opened, checked, read and written in transactions."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from alignkit.annotation.refusals import explained
from alignkit.annotation.tables import VERSION, create_tables, metadata, open_engine
from alignkit.errors import UserError


class Database:
    """May be used by several threads and processes at once."""

    def __init__(self, path: Path, create: bool) -> None:
        """Raises UserError for a file that is no store, is of a newer release, or is missing and not to be created.

        This and all that follows raise StoreFault where SQLite cannot read or write the file.
        """
        self.path = path
        if not create and not path.is_file():
            raise UserError("there is no annotation store", where=path)
        if not path.parent.is_dir():
            raise UserError("the folder does not exist", where=path.parent)
        # It holds what links and cookies are signed with; SQLite gives its other files the mode of this one.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._engine = open_engine(path)
        # Waiting for SQLite's own lock is sleeping and asking again; threads of one process can wait for each other.
        self._turn = threading.Lock()
        try:
            with self.write() as connection:
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                if version > VERSION:
                    raise UserError(
                        f"this store is of a newer release (format {version}, known up to {VERSION})",
                        where=path,
                        hint="upgrade alignkit",
                    )
                tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
                if version == VERSION and not tables >= set(metadata.tables):
                    raise UserError("this database is something else than an annotation store", where=path)
                if version < VERSION:
                    if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
                        raise UserError("this database is something else than an annotation store", where=path)
                    create_tables(connection)
        except DatabaseError as error:
            raise UserError(f"this is not an annotation store: {error.orig}", where=path) from error

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    @contextmanager
    def write(self, durable: bool = True) -> Iterator[Connection]:
        """A transaction that nobody else writes beside; on disk at the end of the block, undone if it raises.

        With `durable` off it outlives a killed process, but the last of them may not outlive a power cut: for leases,
        of which there are as many as judgements and which nobody misses, since `submit` counts again.
        """
        with explained(self.path), self._turn, self._engine.connect() as connection:
            sqlite = driver(connection)
            sqlite.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            sqlite.execute("BEGIN IMMEDIATE")
            with rolled_back(sqlite):
                yield connection
                sqlite.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the file."""
        with explained(self.path), self._engine.connect() as connection:
            sqlite = driver(connection)
            sqlite.execute("BEGIN")
            with rolled_back(sqlite):
                yield connection


@contextmanager
def rolled_back(sqlite: sqlite3.Connection) -> Iterator[None]:
    """After the block no transaction is left: what it did not commit is undone."""
    try:
        yield
    finally:
        if sqlite.in_transaction:  # SQLite may have undone it, when the disk was full
            sqlite.execute("ROLLBACK")


def driver(connection: Connection) -> sqlite3.Connection:
    """For what begins and ends transactions: through SQLAlchemy it takes longer than the queries between."""
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
