"""Queries and small writes that the store's methods are made of; each runs inside a transaction of theirs.

What runs for every answer is built once: building a statement takes longer than running it.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import TypeAdapter
from sqlalchemy import BindParameter, Connection, bindparam, delete, exists, func, insert, or_, select, text, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from alignkit.annotation.tables import instructions, judgements, leases, newest, tasks
from alignkit.records import Judgement

# These judgements fill a place of the task's overlap.
ANSWERS = ("ok", "flagged")
State = Literal["answer", "passed", "undone"]

JUDGEMENT = TypeAdapter(Judgement)

WHO: BindParameter[str] = bindparam("who")
TASK_ID: BindParameter[str] = bindparam("task")
COLLECTION: BindParameter[str] = bindparam("collection")
KEY: BindParameter[str] = bindparam("key")
_now: BindParameter[float] = bindparam("now")
_mine = (newest.c.annotator_id == WHO, newest.c.task_id == TASK_ID)
_held = leases.alias("held")
_later = judgements.alias("later")

# A judgement that nothing supersedes.
CURRENT = ~exists().where(_later.c.supersedes == judgements.c.id)
# It needs no other answer of this annotator.
DONE = newest.c.state != "undone"

TASK = select(tasks.c.record, tasks.c.form, tasks.c.collection).where(tasks.c.id == TASK_ID)
TOLD = (
    select(instructions.c.hash, instructions.c.record)
    .where(instructions.c.collection == COLLECTION)
    .order_by(instructions.c.seq.desc())
    .limit(1)
)
# It has room, and this annotator has not judged it. An undone judgement brings its task back.
FREE = (
    # the condition of the index tasks_open, which SQLite uses only where it stands in the query
    tasks.c.answers < tasks.c.overlap,
    tasks.c.answers + select(func.count()).where(_held.c.task_id == tasks.c.id).scalar_subquery() < tasks.c.overlap,
    ~exists().where(newest.c.annotator_id == WHO, newest.c.task_id == tasks.c.id, DONE),
)
# The first one; gold tasks come in between, see `gold`.
FREE_TASK = (
    select(tasks.c.id, tasks.c.seq, tasks.c.collection).where(*FREE, tasks.c.gold == 0).order_by(tasks.c.seq).limit(1)
)
# How many tasks that are not gold come before one of the same collection.
PASSED = (
    select(func.count())
    .select_from(tasks)
    .where(tasks.c.collection == COLLECTION, tasks.c.gold == 0, tasks.c.overlap > 0, tasks.c.seq < bindparam("seq"))
)
HELD_TASK = (
    select(tasks.c.id)
    .join(leases, leases.c.task_id == tasks.c.id)
    .where(leases.c.annotator_id == WHO)
    # with the plus SQLite looks at the leases and sorts; without, it would go through all tasks in order
    .order_by(text("+tasks.seq"))
    .limit(1)
)
STANDING = select(newest.c.judgement_id, newest.c.state).where(*_mine)
STANDING_RECORD = (
    select(judgements.c.record, newest.c.state).join(newest, newest.c.judgement_id == judgements.c.id).where(*_mine)
)
LAST = (
    select(judgements.c.id, judgements.c.task_id)
    .join(newest, newest.c.judgement_id == judgements.c.id)
    .where(judgements.c.annotator_id == WHO, DONE)
    .order_by(judgements.c.seq.desc())
    .limit(1)
)
RECORD = select(judgements.c.record).where(judgements.c.id == bindparam("id"))
ADD_JUDGEMENT = insert(judgements)
_asked = tasks.alias("asked")
# It is not withdrawn: nothing more is asked about a task that takes no answers while others of its collection do. A
# collection that takes none at all is finished, and all of it counts.
COUNTS = or_(
    tasks.c.overlap > 0,
    ~exists().where(_asked.c.collection == COLLECTION, _asked.c.gold == 0, _asked.c.overlap > 0),
)
ANSWERED = (
    select(func.count())
    .select_from(newest.join(tasks, tasks.c.id == newest.c.task_id))
    .where(newest.c.annotator_id == WHO, newest.c.state == "answer", tasks.c.collection == COLLECTION, COUNTS)
)
_is_open = (tasks.c.collection == COLLECTION, tasks.c.answers < tasks.c.overlap)
# How many open tasks of a collection this annotator has not judged, were he alone.
LEFT = select(
    select(func.count()).select_from(tasks).where(*_is_open).scalar_subquery()
    - select(func.count())
    .select_from(newest.join(tasks, tasks.c.id == newest.c.task_id))
    .where(newest.c.annotator_id == WHO, DONE, *_is_open)
    .scalar_subquery()
)
_PLACES = select(tasks.c.overlap, tasks.c.answers).where(tasks.c.id == TASK_ID)
_HOLDERS = select(leases.c.annotator_id).where(leases.c.task_id == TASK_ID)
_COUNT = update(tasks).where(tasks.c.id == TASK_ID).values(answers=tasks.c.answers + bindparam("change"))
_STAND = sqlite_insert(newest)
_STAND = _STAND.on_conflict_do_update(
    index_elements=["annotator_id", "task_id"],
    set_={"judgement_id": _STAND.excluded.judgement_id, "state": _STAND.excluded.state},
)
_LEASE = sqlite_insert(leases)
_LEASE = _LEASE.on_conflict_do_update(
    index_elements=["task_id", "annotator_id"], set_={"expires": _LEASE.excluded.expires}
)
_RELEASE = delete(leases).where(leases.c.task_id == TASK_ID, leases.c.annotator_id == WHO)
_EXPIRE = delete(leases).where(leases.c.expires <= _now, leases.c.annotator_id != WHO)


def standing(connection: Connection, task_id: str, annotator_id: str) -> tuple[str, State] | tuple[None, None]:
    """An annotator's current judgement of a task, and what it means."""
    row = connection.execute(STANDING, {"who": annotator_id, "task": task_id}).one_or_none()
    return (None, None) if row is None else (row.judgement_id, row.state)


def state_after(judgement: Judgement, before: State | None) -> State:
    """What a judgement means. A skip that supersedes an answer takes it back; after that, a skip is a skip again."""
    if judgement.status in ANSWERS:
        return "answer"
    taken_back = judgement.status == "skipped" and judgement.supersedes is not None and before != "undone"
    return "undone" if taken_back else "passed"


def set_standing(connection: Connection, judgement: Judgement, before: State | None) -> State:
    """Note that this is the annotator's newest judgement of the task; the task's answers are counted with it."""
    state = state_after(judgement, before)
    values = {"annotator_id": judgement.annotator.id, "task_id": judgement.task_id}
    connection.execute(_STAND, {**values, "judgement_id": judgement.id, "state": state})
    change = (state == "answer") - (before == "answer")
    if change:
        connection.execute(_COUNT, {"task": judgement.task_id, "change": change})
    return state


def has_room(connection: Connection, task_id: str, annotator_id: str, state: State | None) -> bool:
    """Whether one more answer, of this annotator, is within the overlap: others' answers and leases come first.

    `state` is that of his own newest judgement of the task.
    """
    row = connection.execute(_PLACES, {"task": task_id}).one_or_none()
    if row is None:
        return False
    answered = state == "answer"
    others = row.answers - answered
    holders = connection.execute(_HOLDERS, {"task": task_id}).scalars().all()
    # who holds the task or has answered it has his place; who lost his lease takes one that nobody holds
    if answered or annotator_id in holders:
        return bool(others < row.overlap)
    return bool(others + len(holders) < row.overlap)


def drop_expired(connection: Connection, now: float, except_of: str = "") -> None:
    """Leases that ran out; one annotator's may be spared."""
    connection.execute(_EXPIRE, {"now": now, "who": except_of})


def lease(connection: Connection, task_id: str, annotator_id: str, expires: float) -> None:
    """Lease a task that has room, or go on holding it."""
    connection.execute(_LEASE, {"task_id": task_id, "annotator_id": annotator_id, "expires": expires})


def release(connection: Connection, task_id: str, annotator_id: str) -> None:
    """End a lease."""
    connection.execute(_RELEASE, {"task": task_id, "who": annotator_id})


def read_judgements(
    connection: Connection, collection: str | None, annotator_id: str | None, superseded: bool
) -> Iterator[Judgement]:
    """In the order they came."""
    query: Any = select(judgements.c.record).order_by(judgements.c.seq)
    if collection is not None:
        query = query.join(tasks, tasks.c.id == judgements.c.task_id).where(tasks.c.collection == collection)
    if annotator_id is not None:
        query = query.where(judgements.c.annotator_id == annotator_id)
    if not superseded:
        query = query.where(CURRENT)
    for record in connection.execute(query).scalars():
        yield JUDGEMENT.validate_json(record)
