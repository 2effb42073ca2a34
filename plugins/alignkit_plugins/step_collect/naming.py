"""A source of judgements that fails: its name, the task it was at, and what it had said until then."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alignkit.data.store import write_records
from alignkit.errors import ENDINGS, AlignkitError, Fault, Paused, out_of_memory, said_by, storage_errno
from alignkit.loop.rollouts import shortened
from alignkit.records import Judgement, Task, plain_text

SO_FAR = "judgements_so_far.jsonl"


@contextmanager
def naming(who: str, tasks: Sequence[Task], found: list[Judgement], folder: Path, kept: bool) -> Iterator[None]:
    """Inside, judgements are put into `found`; what the source raises becomes a Fault with the first task without one.

    Its judgements so far are written to `judgements_so_far.jsonl`, unless they are `kept` elsewhere: a source without a
    memory of its own is asked about every task again, and what was paid for is not lost.
    """
    try:
        yield
    except (Paused, *ENDINGS):
        raise
    except BaseException as error:
        if out_of_memory(error) or storage_errno(error) is not None:
            raise
        saved = ""
        if found and not kept:
            write_records(folder / SO_FAR, found)
            saved = f"; the {len(found)} judgements until then are in {folder / SO_FAR}"
        if isinstance(error, AlignkitError):
            error.hint = f"{error.hint or ''}{saved}".lstrip("; ") or None
            raise
        judged = {judgement.task_id for judgement in found}
        at = next((task for task in tasks if task.id not in judged), None)
        place = "" if at is None else f"; the first task without a judgement is {at.id}, {_shown(at)}"
        raise Fault(
            f"{who} failed after {len(judged)} of {len(tasks)} tasks: {said_by(error)}{place}",
            hint=f"mend the source and run the same command again{saved}",
        ) from error


def _shown(task: Task) -> str:
    return shortened(plain_text(task.prompt))
