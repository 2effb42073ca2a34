"""Asking the source of judgements, so that what it said is not lost when the step is stopped half-way."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing

from alignkit.context import StepContext
from alignkit.errors import Fault
from alignkit.files import digest
from alignkit.protocols import Annotates, ReportsAnnotation, TaskByTask
from alignkit.records import Judgement, Task
from alignkit_plugins.step_collect.journal import Journal
from alignkit_plugins.step_collect.naming import SO_FAR, naming

logger = logging.getLogger("alignkit")

JUDGED = "judgements.partial.jsonl"
SYNC_SECONDS = 1.0


def judge(source: Annotates, tasks: Sequence[Task], context: StepContext, who: str) -> list[Judgement]:
    """All judgements of the tasks. Raises what the source raises; what a `TaskByTask` source said until then is kept.

    Other sources have a memory of their own, as people and judges with a cache do, or are asked again. So is one that
    reports figures: they would tell of the last call alone.
    """
    if not isinstance(source, TaskByTask) or not source.task_by_task or isinstance(source, ReportsAnnotation):
        heard: list[Judgement] = []
        with naming(who, tasks, heard, context.folder, kept=False):
            for judgement in source.annotate(tasks):
                heard.append(judgement)  # one by one: what came before an error has to be there
        (context.folder / SO_FAR).unlink(missing_ok=True)  # of a try that failed
        return heard
    about = digest([context.seed, [task.id for task in tasks]])
    with closing(Journal(context.folder / JUDGED, about, SYNC_SECONDS)) as journal:
        found = [Judgement.model_validate(row) for row in journal.rows()]
        places = {task.id: n for n, task in enumerate(tasks)}
        # Whether the last task that was judged has all its judgements cannot be known.
        first = places[found[-1].task_id] if found else 0
        if found:
            found = [judgement for judgement in found if places[judgement.task_id] < first]
            journal.keep(len(found))
            logger.info("going on after %d of %d tasks, which are judged", first, len(tasks))
        with naming(who, tasks, found, context.folder, kept=True):
            for judgement in _in_order(source, tasks[first:], places):
                journal.append(judgement.model_dump(mode="json", exclude_defaults=True))
                found.append(judgement)
    return found


def _in_order(source: Annotates, tasks: Sequence[Task], places: dict[str, int]) -> Iterator[Judgement]:
    """Judgements as they come. Raises Fault for one that breaks the promise of `TaskByTask`."""
    at = -1
    for judgement in source.annotate(tasks):
        place = places.get(judgement.task_id, -1)
        if place < at or place < 0:
            raise Fault(
                f"judgement {judgement.id!r} is about task {judgement.task_id!r}, which was "
                + ("not asked about" if place < 0 else "left for the next one already"),
                where=f"reward source {type(source).__name__}",
                hint="a source with task_by_task judges the tasks in their order; leave task_by_task out otherwise",
            )
        at = place
        yield judgement
