"""Reading feedback wherever it lies: a run, a step of it, a folder of JSONL files, or an annotation store."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from alignkit.annotation.store import AnnotationStore
from alignkit.data.store import RecordFile
from alignkit.errors import UserError
from alignkit.feedback import judged_candidates
from alignkit.records import Judgement, Task

TASKS, JUDGEMENTS, STORE = "tasks.jsonl", "judgements.jsonl", "annotations.sqlite"
_SQLITE = b"SQLite format 3\0"

R = TypeVar("R", Task, Judgement)
# A record with the place it was read from, for error messages.
_Placed = tuple[str, R]


class Feedback(NamedTuple):
    """Tasks and what was said about them: all of it, failures and superseded judgements too."""

    tasks: list[Task]
    judgements: list[Judgement]


def read_feedback(place: Path) -> Feedback:
    """Tasks and judgements of a run folder, a collect step's folder, a feedback folder or a store file.

    Of a run: the finished `collect` steps of all rounds, and from its store the questions of steps that are not
    finished. Raises UserError for a place that holds no feedback, damaged records, two different records with one id,
    and judgements of tasks or candidates that are not there.
    """
    if place.is_file():
        return _of_store(place)
    if not place.is_dir():
        raise UserError("no such file or folder", where=place)
    if (place / TASKS).is_file():
        return _of_folders([place])
    steps = sorted(path.parent for path in place.glob(f"r*/*/{TASKS}"))
    finished = [step for step in steps if (step / JUDGEMENTS).is_file()]
    store = place / STORE
    if not finished and not store.is_file():
        waiting = "; its collect step waits for judgements" if steps else ""
        raise UserError(
            f"there is no feedback here{waiting}",
            where=place,
            hint=f"name a run, a folder with {TASKS} and {JUDGEMENTS}, or an annotation store",
        )
    found = _of_folders(finished)
    if store.is_file():
        taken = {f"{step.parent.name}-{step.name.partition('-')[2]}" for step in finished}
        asked = _of_store(store, without=taken)
        found = Feedback([*found.tasks, *asked.tasks], [*found.judgements, *asked.judgements])
    return found


def is_store(path: Path) -> bool:
    """Whether a file is an SQLite database, by its first bytes: opening another file as one could change it."""
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def check_known(tasks: Iterable[Task], judgements: Iterable[tuple[str, Judgement]]) -> None:
    """Raise UserError for a judgement (with its place) of a task or candidate that is not there."""
    known = {task.id: {c.id for c in task.candidates} for task in tasks}
    for where, judgement in judgements:
        if judgement.task_id not in known:
            raise UserError(f"a judgement of task {judgement.task_id!r}, which is not there", where=where)
        for id in (*judged_candidates(judgement), *judgement.presented_order):
            if id not in known[judgement.task_id]:
                raise UserError(
                    f"candidate {id!r} is not in task {judgement.task_id!r}",
                    where=where,
                    hint=f"its candidates: {', '.join(sorted(known[judgement.task_id]))}",
                )


def _of_store(path: Path, without: Iterable[str] = ()) -> Feedback:
    if not is_store(path):
        raise UserError(
            "this is not an annotation store",
            where=path,
            hint=f"other files become a folder with {TASKS} and {JUDGEMENTS} by `alignkit feedback import`",
        )
    store = AnnotationStore(path, create=False)
    try:
        wanted = [name for name in store.collections() if name not in set(without)]
        return Feedback(
            [task for name in wanted for task in store.tasks(name)],
            [judgement for name in wanted for judgement in store.judgements(name, superseded=True)],
        )
    finally:
        store.close()


def _of_folders(folders: list[Path]) -> Feedback:
    for folder in folders:
        if not (folder / JUDGEMENTS).is_file():
            raise UserError(f"there are tasks but no {JUDGEMENTS} yet", where=folder, hint="nobody has judged them")
    tasks = _by_id(chain.from_iterable(_placed(folder / TASKS, Task) for folder in folders))
    judgements = _by_id(chain.from_iterable(_placed(folder / JUDGEMENTS, Judgement) for folder in folders))
    check_known((task for _, task in tasks), judgements)
    return Feedback([task for _, task in tasks], [judgement for _, judgement in judgements])


def _placed(path: Path, model: type[R]) -> Iterator[_Placed[R]]:
    for number, record in enumerate(RecordFile(path, model), 1):
        yield f"{path}:{number}", record


def _by_id(found: Iterable[_Placed[R]]) -> list[_Placed[R]]:
    """Each record once; a run's rounds may ask the same question again."""
    first: dict[str, _Placed[R]] = {}
    for where, record in found:
        before, kept = first.setdefault(record.id, (where, record))
        if kept != record:
            raise UserError(f"another {type(record).__name__.lower()} {record.id!r} stands in {before}", where=where)
    return list(first.values())
