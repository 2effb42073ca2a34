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
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, and_, delete, exists, func, insert, select, update

from alignkit.annotation import gold, queries
from alignkit.annotation.annotators import Annotators
from alignkit.annotation.database import Database
from alignkit.annotation.queries import ANSWERS, JUDGEMENT
from alignkit.annotation.replies import (
    SIZES,
    Briefing,
    Form,
    Past,
    Progress,
    Published,
    Refused,
    Snapshot,
    Standing,
    Workload,
)
from alignkit.annotation.tables import instructions, judgements, leases, newest, snapshots, tasks
from alignkit.errors import UserError
from alignkit.feedback import judged_candidates, judgements_hash, payload_candidates
from alignkit.records import Instructions, Judgement, Task

LEASE_SECONDS = 600.0
CACHED_TASKS = 256

_TASK = TypeAdapter(Task)
_INSTRUCTIONS = TypeAdapter(Instructions)


class AnnotationStore:
    """One file. May be used by several threads and processes at once."""

    def __init__(self, path: Path, create: bool = True) -> None:
        """Raises UserError for a file that is no store, is of a newer release, or is missing and not to be created."""
        self.path = path
        self._database = Database(path, create)
        self._read, self._write = self._database.read, self._database.write
        self.annotators = Annotators(self._database)
        # Tasks never change, and those that are being answered are asked for again and again.
        self._published = lru_cache(maxsize=CACHED_TASKS)(self._load)

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def publish(self, collection: str, form: Form, published: Sequence[Task]) -> int:
        """Add tasks to a collection, in this order; returns how many are new.

        The same task again changes nothing. Raises UserError for another task under an id that is taken, and for one
        that cannot be asked in this form.
        """
        rows: dict[str, dict[str, Any]] = {}
        for task in published:
            record = _canonical(_TASK.dump_python(task, mode="json"))
            row = {"id": task.id, "collection": collection, "form": form, "overlap": task.overlap, "record": record}
            _check_task(task, form)
            if rows.setdefault(task.id, {**row, "gold": int(task.gold is not None)})["record"] != record:
                raise UserError(f"two different tasks have the id {task.id!r}", where=collection)
        with self._write() as connection:
            query = select(tasks.c.id, tasks.c.record, tasks.c.collection, tasks.c.form)
            taken = {found.id: found for found in connection.execute(query) if found.id in rows}
            for id, found in taken.items():
                if (found.record, found.collection, found.form) != (rows[id]["record"], collection, form):
                    raise UserError(f"another task with the id {id!r} is in {found.collection!r}", where=self.path)
            new = [row for id, row in rows.items() if id not in taken]
            if new:
                connection.execute(insert(tasks), new)
        return len(new)

    def ask(self, collection: str, places: Mapping[str, int]) -> set[str]:
        """How many answers each task of a collection takes from now on; those not named take none. Answers stay.

        Returns the ids of the tasks that took answers until now and do not any more.
        """
        closed: set[str] = set()
        query = select(tasks.c.id, tasks.c.overlap).where(tasks.c.collection == collection)
        with self._write() as connection:
            for row in connection.execute(query).all():
                overlap = places.get(row.id, 0)
                if overlap != row.overlap:
                    connection.execute(update(tasks).where(tasks.c.id == row.id).values(overlap=overlap))
                if row.overlap and not overlap:
                    closed.add(row.id)
                    connection.execute(delete(leases).where(leases.c.task_id == row.id))
        return closed

    def gold_every(self, collection: str, every: int) -> None:
        """From now on each annotator gets a gold task for so many others of a collection, at a place of his own."""
        with self._write() as connection:
            gold.set_every(connection, collection, every)

    def instruct(self, collection: str, told: Instructions) -> None:
        """What annotators are told about a collection from now on."""
        record = _canonical(_INSTRUCTIONS.dump_python(told, mode="json"))
        values = {"collection": collection, "hash": _hash(record), "created": time.time(), "record": record}
        with self._write() as connection:
            row = connection.execute(queries.TOLD, {"collection": collection}).one_or_none()
            if row is None or row.hash != values["hash"]:
                connection.execute(insert(instructions).values(values))

    def instructions(self, collection: str) -> Instructions:
        """What annotators are told; the defaults if nothing was said."""
        with self._read() as connection:
            row = connection.execute(queries.TOLD, {"collection": collection}).one_or_none()
        return Instructions() if row is None else _INSTRUCTIONS.validate_json(row.record)

    def briefing(self, task_id: str) -> Briefing:
        """A task's collection and its instructions. Raises UserError for an unknown id."""
        collection = self._published(task_id).collection
        return Briefing(collection, self.instructions(collection))

    def task(self, id: str) -> tuple[Task, Form]:
        """A task and the form in which it is asked. Raises UserError for an unknown id."""
        found = self._published(id)
        return found.task, found.form

    def _load(self, id: str) -> Published:
        with self._read() as connection:
            row = connection.execute(queries.TASK, {"task": id}).one_or_none()
        if row is None:
            raise UserError(f"there is no task {id!r}", where=self.path)
        return Published(_TASK.validate_json(row.record), row.form, row.collection)

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

        None when there is nothing (more) for him: what he has answered, skipped or flagged does not come back. Gold
        tasks come among the others, see `gold_every`, and not without them.
        """
        now = time.time() if now is None else now
        with self._write(durable=False) as connection:
            queries.drop_expired(connection, now)
            id = connection.execute(queries.HELD_TASK, {"who": annotator_id}).scalar()
            if id is None:
                free = connection.execute(queries.FREE_TASK, {"who": annotator_id}).one_or_none()
                if free is None:
                    return None
                id = gold.due(connection, annotator_id, gold.Ahead(*free)) or free.id
            queries.lease(connection, id, annotator_id, now + lease_seconds)
        return self.task(id)

    def heartbeat(
        self, annotator_id: str, task_id: str, *, now: float | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> bool:
        """He is still at it. False if the task is not his any more: others have it, or he has answered it."""
        now = time.time() if now is None else now
        with self._write(durable=False) as connection:
            queries.drop_expired(connection, now, except_of=annotator_id)
            _, state = queries.standing(connection, task_id, annotator_id)
            # a page that is late to notice must not take the task back that its own answer has just given away
            if state not in (None, "undone") or not queries.has_room(connection, task_id, annotator_id, state):
                return False
            queries.lease(connection, task_id, annotator_id, now + lease_seconds)
        return True

    def release(self, annotator_id: str, task_id: str) -> None:
        """He does not want it now; it may come back to him."""
        with self._write(durable=False) as connection:
            queries.release(connection, task_id, annotator_id)

    def submit(self, judgement: Judgement, *, seconds: float | None = None, now: float | None = None) -> bool:
        """Store a judgement durably. True if it is new, False if the store has it already (it was sent twice).

        Who takes his answer back keeps the task leased, so that it comes back to him and to nobody else. Raises Refused
        for another judgement under the same id, an unknown task or candidate, a form that was not asked for, a task
        that has its answers, a second answer that supersedes none, and one that supersedes what is not this annotator's
        newest answer to the task.
        """
        now = time.time() if now is None else now
        record = _canonical(JUDGEMENT.dump_python(judgement, mode="json"))
        who, task_id = judgement.annotator.id, judgement.task_id
        problem = self._problem(judgement)
        with self._write() as connection:
            before = connection.execute(queries.RECORD, {"id": judgement.id}).scalar()
            if before is not None:
                if before != record:
                    raise Refused(f"another judgement has the id {judgement.id!r}")
                return False
            if problem is not None:
                raise Refused(problem)
            newest_id, state = queries.standing(connection, task_id, who)
            _check_supersedes(judgement, newest_id)
            queries.drop_expired(connection, now)
            if judgement.status in ANSWERS and not queries.has_room(connection, task_id, who, state):
                raise Refused(f"task {task_id!r} has all its answers")
            values = {
                "id": judgement.id,
                "task_id": task_id,
                "annotator_id": who,
                "status": judgement.status,
                "supersedes": judgement.supersedes,
                "seconds": seconds,
                "created": now,
                "record": record,
            }
            connection.execute(queries.ADD_JUDGEMENT, values)
            state = queries.set_standing(connection, judgement, state)
            if state == "undone" and queries.has_room(connection, task_id, who, state):
                queries.lease(connection, task_id, who, now + LEASE_SECONDS)
            else:
                queries.release(connection, task_id, who)
        return True

    def judgements(
        self, collection: str | None = None, *, annotator_id: str | None = None, superseded: bool = False
    ) -> list[Judgement]:
        """In the order they came; without those that were superseded, unless asked for."""
        with self._read() as connection:
            return list(queries.read_judgements(connection, collection, annotator_id, superseded))

    def judgement(self, id: str) -> Judgement | None:
        """Any judgement, superseded or not."""
        with self._read() as connection:
            record = connection.execute(queries.RECORD, {"id": id}).scalar()
        return None if record is None else JUDGEMENT.validate_json(record)

    def standing(self, annotator_id: str, task_id: str) -> Standing | None:
        """What an annotator last said about a task."""
        with self._read() as connection:
            row = connection.execute(queries.STANDING_RECORD, {"who": annotator_id, "task": task_id}).one_or_none()
        return None if row is None else Standing(JUDGEMENT.validate_json(row.record), row.state == "undone")

    def last(self, annotator_id: str) -> tuple[str, str] | None:
        """The ids of his last judgement that stands and of its task: what an undo takes back."""
        with self._read() as connection:
            row = connection.execute(queries.LAST, {"who": annotator_id}).one_or_none()
        return None if row is None else (row.id, row.task_id)

    def history(self, annotator_id: str, *, limit: int | None = None, offset: int = 0) -> list[Past]:
        """His judgements that stand, newest first; what he took back is not among them."""
        query = (
            select(judgements.c.record, judgements.c.created, judgements.c.seconds, tasks.c.form)
            .add_columns(tasks.c.record.label("task"))
            .join(newest, newest.c.judgement_id == judgements.c.id)
            .join(tasks, tasks.c.id == judgements.c.task_id)
            .where(judgements.c.annotator_id == annotator_id, queries.DONE)
            .order_by(judgements.c.seq.desc())
            .limit(limit)
            .offset(offset)
        )
        with self._read() as connection:
            rows = connection.execute(query).all()
        return [
            Past(JUDGEMENT.validate_json(r.record), _TASK.validate_json(r.task), r.form, r.created, r.seconds)
            for r in rows
        ]

    def seconds(self, collection: str | None = None) -> dict[str, float]:
        """Judgement id -> how long it took, for the current ones of which this is known."""
        query = select(judgements.c.id, judgements.c.seconds).where(judgements.c.seconds.is_not(None), queries.CURRENT)
        if collection is not None:
            query = query.join(tasks, tasks.c.id == judgements.c.task_id).where(tasks.c.collection == collection)
        with self._read() as connection:
            return {row.id: row.seconds for row in connection.execute(query)}

    def progress(self, collection: str, annotator_id: str | None = None) -> Progress:
        """How far a collection is, without gold tasks, which are there for the annotators' sake, and withdrawn ones."""
        query = select(
            func.count(),
            func.count().filter(tasks.c.answers >= tasks.c.overlap),
            func.coalesce(func.sum(tasks.c.answers), 0),
        ).where(tasks.c.collection == queries.COLLECTION, tasks.c.gold == 0, queries.COUNTS)
        with self._read() as connection:
            count, complete, answers = connection.execute(query, {"collection": collection}).one()
            mine = 0 if annotator_id is None else _answered(connection, collection, annotator_id)
        return Progress(count, complete, answers, mine)

    def wanted(self, collection: str) -> int:
        """How many answers the collection's tasks want together, gold tasks left out."""
        query = select(func.coalesce(func.sum(tasks.c.overlap), 0))
        with self._read() as connection:
            condition = and_(tasks.c.collection == collection, tasks.c.gold == 0)
            return int(connection.execute(query.where(condition)).scalar_one())

    def answered(self, collection: str, annotator_id: str) -> int:
        """How many tasks of a collection an annotator has answered, without withdrawn ones."""
        with self._read() as connection:
            return _answered(connection, collection, annotator_id)

    def workload(self, collection: str, annotator_id: str) -> Workload:
        """What one annotator has done in a collection and may still get."""
        with self._read() as connection:
            left = connection.execute(queries.LEFT, {"who": annotator_id, "collection": collection}).scalar_one()
            return Workload(_answered(connection, collection, annotator_id), left)

    def snapshot(self, collection: str | None = None, *, now: float | None = None) -> Snapshot:
        """The judgements of now, kept under the hash of their contents for as long as the file exists."""
        now = time.time() if now is None else now
        with self._write() as connection:
            found = sorted(queries.read_judgements(connection, collection, None, False), key=lambda j: j.id)
            hash = judgements_hash(found)
            if not connection.execute(select(exists().where(snapshots.c.hash == hash))).scalar():
                ids = json.dumps([judgement.id for judgement in found])
                connection.execute(insert(snapshots).values(hash=hash, collection=collection, created=now, ids=ids))
        return Snapshot(hash, tuple(found))

    def load_snapshot(self, hash: str) -> Snapshot:
        """What `snapshot` returned, whatever came since. Raises UserError for an unknown hash."""
        with self._read() as connection:
            text = connection.execute(select(snapshots.c.ids).where(snapshots.c.hash == hash)).scalar()
            if text is None:
                raise UserError(f"there is no snapshot {hash!r}", where=self.path)
            rows = connection.execute(select(judgements.c.id, judgements.c.record)).all()
            records = {row.id: row.record for row in rows}
        return Snapshot(hash, tuple(JUDGEMENT.validate_json(records[id]) for id in json.loads(text)))

    def _problem(self, judgement: Judgement) -> str | None:
        """Why this can be no answer to its task, whatever else was answered. Tasks never change: no lock is needed."""
        try:
            task, form, _ = self._published(judgement.task_id)
        except UserError as error:
            return error.what
        known = {candidate.id for candidate in task.candidates}
        for id in (*judged_candidates(judgement), *judgement.presented_order):
            if id not in known:
                return f"candidate {id!r} is not in task {judgement.task_id!r}"
        if judgement.payload is not None and judgement.payload.type != form:
            return f"task {judgement.task_id!r} asks for a {form}, not a {judgement.payload.type}"
        return None


def guidelines_version(told: Instructions) -> str:
    """Names the guidelines' text: who has acknowledged it need not do so again in a collection that has the same."""
    return _hash(told.guidelines)[:16]


def _check_task(task: Task, form: Form) -> None:
    """Whoever got a task that cannot be shown or answered would be stuck with it."""
    ids = [candidate.id for candidate in task.candidates]
    size = SIZES[form]
    if len(ids) < 2 if size is None else len(ids) != size:
        raise UserError(f"task {task.id!r} has {len(ids)} candidates, which form {form} cannot ask about")
    if len(set(ids)) < len(ids):
        raise UserError(f"task {task.id!r} has two candidates with one id")
    if task.gold is not None and not set(payload_candidates(task.gold)) <= set(ids):
        raise UserError(f"the gold answer of task {task.id!r} names a candidate that the task does not have")


def _check_supersedes(judgement: Judgement, newest_id: str | None) -> None:
    if newest_id == judgement.supersedes:
        return
    who = judgement.annotator.id
    if judgement.supersedes is None:
        raise Refused(f"{who!r} has judged task {judgement.task_id!r}: a change supersedes {newest_id!r}")
    raise Refused(f"{judgement.supersedes!r} is not the newest answer of {who!r} to this task")


def _answered(connection: Connection, collection: str, annotator_id: str) -> int:
    return int(connection.execute(queries.ANSWERED, {"who": annotator_id, "collection": collection}).scalar_one())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
