"""Answers of judges in one SQLite file, written as they arrive, and what they cost."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Float, Integer, MetaData, String, Table, Text, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from alignkit.annotation.database import driver, rolled_back
from alignkit.annotation.refusals import explained
from alignkit.annotation.tables import open_engine
from alignkit.errors import UserError
from alignkit_plugins.reward_ai.answers import Answer, Spent

VERSION = 1
# Questions looked up in one statement; SQLite allows 32,766 variables, older builds 999.
CHUNK = 500
# Failures of the server are asked again. What cannot be parsed and what is refused are answers, and were paid for.
KEPT = ("ok", "parse_error", "refusal")

metadata = MetaData()
answers = Table(
    "answers",
    metadata,
    Column("key", String, primary_key=True),
    Column("judge", String, nullable=False),
    Column("status", String, nullable=False),
    Column("shares", Text, nullable=False),
    Column("mass", Float),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)
spending = Table(
    "spending",
    metadata,
    Column("judge", String, primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("tokens_in", Integer, nullable=False),
    Column("tokens_out", Integer, nullable=False),
)


class Cache:
    """Answers by the key of their question. May be used by several processes at once."""

    def __init__(self, path: Path) -> None:
        """Raises UserError for a file that is something else."""
        self.path = path
        if not path.absolute().parent.is_dir():
            raise UserError("the folder of the judge's cache does not exist", where=path)
        self._engine = open_engine(path)
        try:
            with self._write() as connection:
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
                if version > VERSION or (tables and "spending" not in tables):
                    raise UserError("this file is no cache of judges' answers that can be read here", where=path)
                metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
        except DatabaseError as error:
            raise UserError(f"this is no cache of judges' answers: {error.orig}", where=path) from error

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    def find(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers there are."""
        wanted, found = list(keys), {}
        with explained(self.path), self._engine.connect() as connection:
            for start in range(0, len(wanted), CHUNK):
                query = select(answers).where(answers.c.key.in_(wanted[start : start + CHUNK]))
                for row in connection.execute(query):
                    found[row.key] = Answer(row.status, tuple(json.loads(row.shares)), row.mass, row.text)
        return found

    def keep(self, judge: str, given: Iterable[tuple[str, Answer]], cost: Spent) -> None:
        """Add answers and what they cost; on disk when it returns. Failures of the server only cost."""
        rows: list[dict[str, Any]] = [
            {"key": key, "judge": judge, "created": time.time(), **a._asdict(), "shares": json.dumps(a.shares)}
            for key, a in given
            if a.status in KEPT
        ]
        with self._write() as connection:
            if rows:
                connection.execute(insert(answers).on_conflict_do_nothing(), rows)
            if any(cost):
                entry = insert(spending).values(judge=judge, **cost._asdict())
                added = {name: spending.c[name] + entry.excluded[name] for name in Spent._fields}
                connection.execute(entry.on_conflict_do_update(index_elements=["judge"], set_=added))

    def spent(self, judge: str) -> Spent:
        """What this judge's answers cost so far, in all runs that used the file."""
        with explained(self.path), self._engine.connect() as connection:
            row = connection.execute(select(spending).where(spending.c.judge == judge)).one_or_none()
        return Spent() if row is None else Spent(row.requests, row.tokens_in, row.tokens_out)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with explained(self.path), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            with rolled_back(driver(connection)):
                yield connection
                connection.exec_driver_sql("COMMIT")
