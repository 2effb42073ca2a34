"""Judgements as the checks of judging look at them: by task, by content, and what they prefer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignkit.context import StepContext
from alignkit.errors import Paused
from alignkit.feedback import judged_candidates, preference_pairs, superseded_ids
from alignkit.records import Judgement, Task

Preferences = Mapping[tuple[str, str], float]
People = Callable[[Sequence[Task], StepContext], None]


class Judge:
    """A built source with the people it asks: calling it judges tasks, whoever has to be asked for it."""

    def __init__(self, source: Any, context: StepContext, people: People | None) -> None:
        self.source = source
        self.context = context
        self.people = people

    def __call__(self, tasks: Sequence[Task]) -> list[Judgement]:
        """All judgements of these tasks."""
        try:
            return list(self.source.annotate(tasks))
        except Paused:
            if self.people is None:
                raise
        self.people(tasks, self.context)
        return list(self.source.annotate(tasks))


def by_task(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    found: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        found.setdefault(judgement.task_id, []).append(judgement)
    return found


def standing(judgements: Sequence[Judgement]) -> Iterator[Judgement]:
    """Those that say something and were not replaced."""
    replaced = superseded_ids(judgements)
    return (j for j in judgements if j.status == "ok" and j.id not in replaced)


def alike(found: Sequence[Judgement], expected: Sequence[Judgement], tolerance: float) -> bool:
    """Whether they say the same, in whatever order they come, but for the last digits of numbers."""
    return _close(_contents(found), _contents(expected), tolerance)


def _contents(judgements: Sequence[Judgement]) -> list[Any]:
    """What judgements say, by id: the order in which they come does not matter."""
    return [j.model_dump(mode="json") for j in sorted(judgements, key=lambda j: j.id)]


def _close(a: Any, b: Any, tolerance: float) -> bool:
    """Equal, but for the last digits of numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return bool(a == b)


def check_candidates(judgement: Judgement, tasks: Sequence[Task]) -> None:
    task = next((t for t in tasks if t.id == judgement.task_id), None)
    assert task is not None, f"judgement {judgement.id!r} is about {judgement.task_id!r}, which was not asked"
    strangers = set(judged_candidates(judgement)) - {c.id for c in task.candidates}
    assert not strangers, f"{sorted(strangers)} are no ids of candidates of task {task.id!r}"


def preferences(tasks: Sequence[Task], judgements: Sequence[Judgement]) -> Preferences:
    """(text, other text) -> probability that the first is better, for every pair that was compared, in both orders."""
    found: dict[tuple[str, str], float] = {}
    for pair in preference_pairs(tasks, judgements, rating_threshold=0.0):
        a, b = (repr(side) if not isinstance(side, str) else side for side in (pair.chosen, pair.rejected))
        found[a, b], found[b, a] = pair.p, 1 - pair.p
    return found
