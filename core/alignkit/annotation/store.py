"""Tasks, judgements and leases in one SQLite file.

A judgement that `submit` returned for is on disk (write-ahead log, synchronous=FULL) and stays: judgements are never
changed or deleted, an edit is a new one that supersedes. Ids come from the client, so a client that did not hear the
answer sends the same judgement again and gets the same answer.

How many people answer a task is its `overlap`. Handing out counts answers and leases together, and `submit` counts
again inside its own transaction, so a task never has more answers than that, however many people ask at once and
whoever comes back after his lease ran out. Skipped tasks go to others; who flags a task has answered it.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter
from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select
from sqlalchemy.exc import DatabaseError

from alignkit.annotation.tables import VERSION, create_tables, judgements, leases, open_engine, snapshots, tasks
from alignkit.errors import AlignkitError, UserError
from alignkit.feedback import judged_candidates
from alignkit.records import Judgement, Task

Form = Literal["ranking", "pairwise", "rating", "binary", "critique"]
LEASE_SECONDS = 600.0
# These judgements fill a place of the task's overlap.
ANSWERS = ("ok", "flagged")

_TASK = TypeAdapter(Task)
_JUDGEMENT = TypeAdapter(Judgement)


class Refused(AlignkitError):
    """A judgement that the store does not take, for a reason that sending it again will not mend."""

    exit_status = 2


class Progress(NamedTuple):
    """Of a collection: tasks, those with as many answers as they need, answers, and those of one annotator."""

    tasks: int
    complete: int
    answers: int
    mine: int = 0


class Snapshot(NamedTuple):
    """What the store held at one moment: `hash` is of the judgements themselves, so it names them for ever."""

    hash: str
    judgements: tuple[Judgement, ...]


class AnnotationStore:
    """One file. May be used by several threads and processes at once."""

    def __init__(self, path: Path, create: bool = True) -> None:
        """Raises UserError for a file that is no store, is of a newer release, or is missing and not to be created."""
        self.path = path
        if not create and not path.is_file():
            raise UserError("there is no annotation store", where=path)
        if not path.parent.is_dir():
            raise UserError("the folder does not exist", where=path.parent)
        self._engine = open_engine(path)
        try:
            with self._write() as connection:
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                if version > VERSION:
                    raise UserError(
                        f"this store is of a newer release (format {version}, known up to {VERSION})",
                        where=path,
                        hint="upgrade alignkit",
                    )
                if version < VERSION:
                    if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
                        raise UserError("this database is something else than an annotation store", where=path)
                    create_tables(connection)
        except DatabaseError as error:
            raise UserError(f"this is not an annotation store: {error.orig}", where=path) from error

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    def publish(self, collection: str, form: Form, published: Sequence[Task]) -> int:
        """Add tasks to a collection, in this order; returns how many are new.

        The same task again changes nothing. Raises UserError for another task under an id that is taken.
        """
        rows: dict[str, dict[str, Any]] = {}
        for task in published:
            record = _canonical(_TASK.dump_python(task, mode="json"))
            row = {"id": task.id, "collection": collection, "form": form, "overlap": task.overlap, "record": record}
            if rows.setdefault(task.id, {**row, "gold": int(task.gold is not None)})["record"] != record:
                raise UserError(f"two different tasks have the id {task.id!r}", where=collection)
        with self._write() as connection:
            query = select(tasks.c.id, tasks.c.record, tasks.c.collection)
            taken = {found.id: found for found in connection.execute(query) if found.id in rows}
            for id, found in taken.items():
                if (found.record, found.collection) != (rows[id]["record"], collection):
                    raise UserError(f"another task with the id {id!r} is in {found.collection!r}", where=self.path)
            new = [row for id, row in rows.items() if id not in taken]
            if new:
                connection.execute(insert(tasks), new)
        return len(new)

    def task(self, id: str) -> tuple[Task, Form]:
        """A task and the form in which it is asked. Raises UserError for an unknown id."""
        with self._read() as connection:
            row = connection.execute(select(tasks.c.record, tasks.c.form).where(tasks.c.id == id)).one_or_none()
        if row is None:
            raise UserError(f"there is no task {id!r}", where=self.path)
        return _TASK.validate_json(row.record), row.form

    def collections(self) -> dict[str, int]:
        """Name -> number of tasks, in the order of their first task."""
        query = select(tasks.c.collection, func.count()).group_by(tasks.c.collection).order_by(func.min(tasks.c.seq))
        with self._read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def tasks(self, collection: str | None = None) -> list[Task]:
        """All tasks, in the order of their publication."""
        query = select(tasks.c.record).order_by(tasks.c.seq)
        if collection is not None:
            query = query.where(tasks.c.collection == collection)
        with self._read() as connection:
            return [_TASK.validate_json(record) for record in connection.execute(query).scalars()]

    def next_task(
        self, annotator_id: str, *, now: float | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> tuple[Task, Form] | None:
        """The task this annotator should answer next, leased to him; the one he already has, if he has one.

        None when there is nothing (more) for him: what he has answered, skipped or flagged does not come back.
        """
        now = time.time() if now is None else now
        with self._write() as connection:
            connection.execute(delete(leases).where(leases.c.expires <= now))
            mine = connection.execute(
                select(tasks.c.id, tasks.c.record, tasks.c.form)
                .join(leases, leases.c.task_id == tasks.c.id)
                .where(leases.c.annotator_id == annotator_id)
                .order_by(tasks.c.seq)
            ).first()
            row = mine or connection.execute(_free_task(annotator_id)).first()
            if row is None:
                return None
            _lease(connection, row.id, annotator_id, now + lease_seconds)
        return _TASK.validate_json(row.record), row.form

    def heartbeat(
        self, annotator_id: str, task_id: str, *, now: float | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> bool:
        """He is still at it. False if the task went to somebody else in the meantime."""
        now = time.time() if now is None else now
        with self._write() as connection:
            connection.execute(delete(leases).where(leases.c.expires <= now, leases.c.annotator_id != annotator_id))
            if not _has_room(connection, task_id, annotator_id):
                return False
            _lease(connection, task_id, annotator_id, now + lease_seconds)
        return True

    def release(self, annotator_id: str, task_id: str) -> None:
        """He does not want it now; it may come back to him."""
        with self._write() as connection:
            connection.execute(delete(leases).where(leases.c.task_id == task_id, leases.c.annotator_id == annotator_id))

    def submit(self, judgement: Judgement, *, seconds: float | None = None, now: float | None = None) -> bool:
        """Store a judgement durably. True if it is new, False if the store has it already (it was sent twice).

        Raises Refused for another judgement under the same id, an unknown task or candidate, a form that was not
        asked for, a task that has its answers, a second answer that supersedes none, and one that supersedes what is
        not this annotator's newest answer to the task.
        """
        now = time.time() if now is None else now
        record = _canonical(_JUDGEMENT.dump_python(judgement, mode="json"))
        with self._write() as connection:
            before = connection.execute(select(judgements.c.record).where(judgements.c.id == judgement.id)).scalar()
            if before is not None:
                if before != record:
                    raise Refused(f"another judgement has the id {judgement.id!r}")
                return False
            self._check(connection, judgement, now)
            connection.execute(
                insert(judgements).values(
                    id=judgement.id,
                    task_id=judgement.task_id,
                    annotator_id=judgement.annotator.id,
                    status=judgement.status,
                    supersedes=judgement.supersedes,
                    seconds=seconds,
                    created=now,
                    record=record,
                )
            )
            connection.execute(
                delete(leases).where(
                    leases.c.task_id == judgement.task_id, leases.c.annotator_id == judgement.annotator.id
                )
            )
        return True

    def judgements(
        self, collection: str | None = None, *, annotator_id: str | None = None, superseded: bool = False
    ) -> list[Judgement]:
        """In the order they came; without those that were superseded, unless asked for."""
        with self._read() as connection:
            return [judgement for _, judgement in _judgements(connection, collection, annotator_id, superseded)]

    def progress(self, collection: str, annotator_id: str | None = None) -> Progress:
        """How far a collection is."""
        answered = _answers().subquery()
        query = (
            select(tasks.c.id, tasks.c.overlap, func.count(answered.c.task_id).label("answers"))
            .outerjoin(answered, answered.c.task_id == tasks.c.id)
            .where(tasks.c.collection == collection)
            .group_by(tasks.c.id)
        )
        with self._read() as connection:
            rows = connection.execute(query).all()
            mine = 0
            if annotator_id is not None:
                own = [j for _, j in _judgements(connection, collection, annotator_id, False)]
                mine = sum(j.status in ANSWERS for j in own)
        return Progress(
            len(rows), sum(row.answers >= row.overlap for row in rows), sum(row.answers for row in rows), mine
        )

    def snapshot(self, collection: str | None = None, *, now: float | None = None) -> Snapshot:
        """The judgements of now, kept under the hash of their contents for as long as the file exists."""
        now = time.time() if now is None else now
        with self._write() as connection:
            found = sorted(_judgements(connection, collection, None, False), key=lambda pair: pair[1].id)
            records = [_canonical(_JUDGEMENT.dump_python(judgement, mode="json")) for _, judgement in found]
            hash = hashlib.sha256("\n".join(records).encode()).hexdigest()
            if not connection.execute(select(exists().where(snapshots.c.hash == hash))).scalar():
                ids = json.dumps([judgement.id for _, judgement in found])
                connection.execute(insert(snapshots).values(hash=hash, collection=collection, created=now, ids=ids))
        return Snapshot(hash, tuple(judgement for _, judgement in found))

    def load_snapshot(self, hash: str) -> Snapshot:
        """What `snapshot` returned, whatever came since. Raises UserError for an unknown hash."""
        with self._read() as connection:
            text = connection.execute(select(snapshots.c.ids).where(snapshots.c.hash == hash)).scalar()
            if text is None:
                raise UserError(f"there is no snapshot {hash!r}", where=self.path)
            rows = connection.execute(select(judgements.c.id, judgements.c.record)).all()
            records = {row.id: row.record for row in rows}
        return Snapshot(hash, tuple(_JUDGEMENT.validate_json(records[id]) for id in json.loads(text)))

    def _check(self, connection: Connection, judgement: Judgement, now: float) -> None:
        row = connection.execute(
            select(tasks.c.record, tasks.c.form).where(tasks.c.id == judgement.task_id)
        ).one_or_none()
        if row is None:
            raise Refused(f"there is no task {judgement.task_id!r}")
        known = {candidate.id for candidate in _TASK.validate_json(row.record).candidates}
        for id in (*judged_candidates(judgement), *judgement.presented_order):
            if id not in known:
                raise Refused(f"candidate {id!r} is not in task {judgement.task_id!r}")
        if judgement.payload is not None and judgement.payload.type != row.form:
            raise Refused(f"task {judgement.task_id!r} asks for a {row.form}, not a {judgement.payload.type}")
        newest = connection.execute(_newest(judgement.task_id, judgement.annotator.id)).scalar()
        if newest != judgement.supersedes:
            who = judgement.annotator.id
            if judgement.supersedes is None:
                raise Refused(f"{who!r} has judged task {judgement.task_id!r}: a change supersedes {newest!r}")
            raise Refused(f"{judgement.supersedes!r} is not the newest answer of {who!r} to this task")
        connection.execute(delete(leases).where(leases.c.expires <= now))
        if judgement.status in ANSWERS and not _has_room(connection, judgement.task_id, judgement.annotator.id):
            raise Refused(f"task {judgement.task_id!r} has all its answers")

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.exec_driver_sql("ROLLBACK")


def _current() -> Any:
    """Condition: a judgement that nothing supersedes."""
    later = judgements.alias("later")
    return ~exists().where(later.c.supersedes == judgements.c.id)


def _answers() -> Any:
    """(task, annotator) of every current answer."""
    return select(judgements.c.task_id, judgements.c.annotator_id).where(judgements.c.status.in_(ANSWERS), _current())


def _newest(task_id: str, annotator_id: str) -> Any:
    """Id of an annotator's current judgement of a task."""
    return select(judgements.c.id).where(
        judgements.c.task_id == task_id, judgements.c.annotator_id == annotator_id, _current()
    )


def _free_task(annotator_id: str) -> Any:
    """The first task with room that this annotator has not judged. An undone judgement brings its task back."""
    answers, held = _answers().subquery(), leases.alias("held")
    answer_count = select(func.count()).where(answers.c.task_id == tasks.c.id).scalar_subquery()
    lease_count = select(func.count()).where(held.c.task_id == tasks.c.id).scalar_subquery()
    undone = and_(judgements.c.status == "skipped", judgements.c.supersedes.is_not(None))
    judged = exists().where(
        judgements.c.task_id == tasks.c.id, judgements.c.annotator_id == annotator_id, _current(), ~undone
    )
    return (
        select(tasks.c.id, tasks.c.record, tasks.c.form)
        .where(~judged, answer_count + lease_count < tasks.c.overlap)
        .order_by(tasks.c.seq)
        .limit(1)
    )


def _has_room(connection: Connection, task_id: str, annotator_id: str) -> bool:
    """Whether one more answer, of this annotator, is within the overlap: others' answers and leases come first."""
    answers = _answers().subquery()
    others = connection.execute(
        select(func.count()).where(answers.c.task_id == task_id, answers.c.annotator_id != annotator_id)
    ).scalar_one()
    held = connection.execute(
        select(func.count()).where(leases.c.task_id == task_id, leases.c.annotator_id != annotator_id)
    ).scalar_one()
    own = connection.execute(
        select(
            or_(
                exists().where(leases.c.task_id == task_id, leases.c.annotator_id == annotator_id),
                exists().where(answers.c.task_id == task_id, answers.c.annotator_id == annotator_id),
            )
        )
    ).scalar_one()
    overlap = connection.execute(select(tasks.c.overlap).where(tasks.c.id == task_id)).scalar_one()
    # who holds the task or has answered it has his place; who lost his lease takes one that nobody holds
    return bool(others < overlap if own else others + held < overlap)


def _lease(connection: Connection, task_id: str, annotator_id: str, expires: float) -> None:
    connection.execute(delete(leases).where(leases.c.task_id == task_id, leases.c.annotator_id == annotator_id))
    connection.execute(insert(leases).values(task_id=task_id, annotator_id=annotator_id, expires=expires))


def _judgements(
    connection: Connection, collection: str | None, annotator_id: str | None, superseded: bool
) -> Iterator[tuple[int, Judgement]]:
    query = select(judgements.c.seq, judgements.c.record).order_by(judgements.c.seq)
    if collection is not None:
        query = query.join(tasks, tasks.c.id == judgements.c.task_id).where(tasks.c.collection == collection)
    if annotator_id is not None:
        query = query.where(judgements.c.annotator_id == annotator_id)
    if not superseded:
        query = query.where(_current())
    for row in connection.execute(query):
        yield row.seq, _JUDGEMENT.validate_json(row.record)


def _canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
