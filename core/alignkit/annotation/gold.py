"""When an annotator gets a gold task: among his other tasks, at places of his own.

An annotator must not be able to tell which tasks are gold. Of each `every` tasks of a collection one has a gold task in
front of it; which one, and which gold task it is, is drawn for each annotator by a hash, so it is the same when he asks
again. Two never follow each other, and none comes when nothing else is left: whoever comes late to a collection, when
others have done most of it, gets them more densely, and not all of them.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from alignkit.annotation import queries
from alignkit.annotation.tables import newest, settings, tasks

EVERY = 10

_who, _collection = queries.WHO, queries.COLLECTION
_of_collection = (tasks.c.collection == _collection, tasks.c.gold == 1)
_OPEN = select(tasks.c.id).where(*_of_collection, *queries.FREE)
_DONE = (
    select(func.count())
    .select_from(newest.join(tasks, tasks.c.id == newest.c.task_id))
    .where(newest.c.annotator_id == _who, queries.DONE, *_of_collection)
)
_IS_GOLD = select(tasks.c.gold).where(tasks.c.id == queries.TASK_ID)
_SETTING = select(settings.c.value).where(settings.c.key == queries.KEY)
_SET = sqlite_insert(settings)
_SET = _SET.on_conflict_do_update(index_elements=["key"], set_={"value": _SET.excluded.value})


class Ahead(NamedTuple):
    """The next task that is not gold, as FREE_TASK finds it."""

    id: str
    seq: int
    collection: str


def set_every(connection: Connection, collection: str, every: int) -> None:
    """A gold task for each `every` others of a collection."""
    connection.execute(_SET, {"key": _key(collection), "value": str(every)})


def due(connection: Connection, who: str, ahead: Ahead) -> str | None:
    """The id of the gold task that this annotator gets before the task `ahead`, if it is time for one."""
    collection = ahead.collection
    values = {"who": who, "collection": collection}
    candidates: Sequence[str] = connection.execute(_OPEN, values).scalars().all()
    if not candidates or _has_just_had_one(connection, who):
        return None
    passed = connection.execute(queries.PASSED, {**values, "seq": ahead.seq}).scalar_one()
    every = int(connection.execute(_SETTING, {"key": _key(collection)}).scalar() or EVERY)
    window, place = divmod(passed, every)
    behind = window + (_drawn(who, collection, window) % every <= place)
    behind -= connection.execute(_DONE, values).scalar_one()
    # who is behind by several catches up at an uneven pace
    if behind <= 0 or (behind > 1 and _drawn(who, ahead.id) % 2):
        return None
    return min(candidates, key=lambda id: _drawn(who, id))


def _has_just_had_one(connection: Connection, who: str) -> bool:
    last = connection.execute(queries.LAST, {"who": who}).one_or_none()
    return last is not None and bool(connection.execute(_IS_GOLD, {"task": last.task_id}).scalar())


def _drawn(*parts: object) -> int:
    """A number that is random to whoever does not calculate it."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _key(collection: str) -> str:
    return f"gold every {collection}"
