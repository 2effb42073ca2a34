"""The tables of an annotation store, and how its database is opened."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy import create_engine as sqlalchemy_engine

# Raised with every change that an older release could not read.
VERSION = 1
# For another process that writes.
WAIT_SECONDS = 30.0

metadata = MetaData()

tasks = Table(
    "tasks",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, unique=True, nullable=False),
    Column("collection", String, nullable=False),
    Column("form", String, nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("gold", Integer, nullable=False),
    # How many current answers there are; changed with `newest`.
    Column("answers", Integer, nullable=False, server_default="0"),
    Column("record", Text, nullable=False),
    Index("tasks_by_collection", "collection", "seq"),
    Index("tasks_progress", "collection", "gold", "overlap", "answers"),
    Index("tasks_open", "seq", sqlite_where=text("answers < overlap")),
)

# Append-only: triggers refuse changes and deletions.
judgements = Table(
    "judgements",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, unique=True, nullable=False),
    Column("task_id", String, ForeignKey("tasks.id"), nullable=False),
    Column("annotator_id", String, nullable=False),
    Column("status", String, nullable=False),
    Column("supersedes", String, unique=True),
    Column("seconds", Float),
    Column("created", Float, nullable=False),
    Column("record", Text, nullable=False),
    Index("judgements_by_task", "task_id"),
    Index("judgements_by_annotator", "annotator_id", "seq"),
)

# What stands of each annotator's judgements of a task: follows from `judgements`, written in the same transactions.
# state: "answer" fills a place of the task's overlap, "passed" does not, "undone" means he is asked again.
newest = Table(
    "newest",
    metadata,
    Column("annotator_id", String, primary_key=True),
    Column("task_id", String, ForeignKey("tasks.id"), primary_key=True),
    Column("judgement_id", String, ForeignKey("judgements.id"), unique=True, nullable=False),
    Column("state", String, nullable=False),
    sqlite_with_rowid=False,
)

leases = Table(
    "leases",
    metadata,
    Column("task_id", String, ForeignKey("tasks.id"), primary_key=True),
    Column("annotator_id", String, primary_key=True),
    Column("expires", Float, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("hash", String, primary_key=True),
    Column("collection", String),
    Column("created", Float, nullable=False),
    Column("ids", Text, nullable=False),
)

# The last row of a collection holds; the earlier ones say what people were told before.
instructions = Table(
    "instructions",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("collection", String, nullable=False),
    Column("hash", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("record", Text, nullable=False),
    Index("instructions_by_collection", "collection", "seq"),
)

annotators = Table(
    "annotators",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("active", Integer, nullable=False, server_default="1"),
    Column("created", Float, nullable=False),
)

# The newest invite of an annotator opens the page; a new one closes the door behind a link that went astray.
invites = Table(
    "invites",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, unique=True, nullable=False),
    Column("annotator_id", String, ForeignKey("annotators.id"), nullable=False),
    Column("created", Float, nullable=False),
    Index("invites_by_annotator", "annotator_id", "seq"),
)

acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("annotator_id", String, ForeignKey("annotators.id"), primary_key=True),
    Column("guidelines", String, primary_key=True),
    Column("created", Float, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

_APPEND_ONLY = (
    "CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
)


def open_engine(path: Path) -> Engine:
    """An engine whose commits are on disk when they return. Transactions are begun by hand, for writers IMMEDIATE."""
    engine = sqlalchemy_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # sqlite3 would begin transactions by itself, and too late
        # trusted_schema: the file may be a stranger's, and its views and triggers must reach nothing outside it.
        for setting in ("trusted_schema=OFF", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")
        _log_ahead(connection)

    return engine


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Have the file use a write-ahead log. Of processes that switch a new file at once SQLite refuses all but one."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def create_tables(connection: Any) -> None:
    """Inside a transaction."""
    metadata.create_all(connection)
    for table in ("judgements", "snapshots"):
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(_APPEND_ONLY.format(table=table, verb=verb))
    connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
