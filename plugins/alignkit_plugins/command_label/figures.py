"""What the admin page shows: how far, how well people agree, how they work."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from alignkit.annotation import AnnotationStore, Person, Progress
from alignkit.records import Judgement, Task
from alignkit_plugins.command_label.text import Shown, show, show_content, visible

if TYPE_CHECKING:
    from alignkit.agreement import Agreement, Share

FLAGGED_SHOWN = 100


class CollectionFigures(NamedTuple):
    """One collection."""

    name: str
    progress: Progress
    wanted: int
    agreement: dict[str, "Agreement"]


class PersonFigures(NamedTuple):
    """One annotator."""

    person: Person
    answered: int
    skipped: int
    flagged: int
    gold: "Share | None"
    seconds: float | None


class Flagged(NamedTuple):
    """A task that an annotator says something is wrong with."""

    task_id: str
    who: str
    reason: str
    prompt: Sequence[Shown]
    completions: Sequence[Shown]


class Figures(NamedTuple):
    """Everything, at one moment."""

    collections: list[CollectionFigures]
    people: list[PersonFigures]
    position: "Share | None"
    length: "Share | None"
    flagged: list[Flagged]
    flagged_total: int


def figures(store: AnnotationStore) -> Figures:
    """Counts over all current judgements."""
    from alignkit.agreement import gold_accuracy, length_preference, position_preference

    asked = {name: store.tasks(name) for name in store.collections()}
    answers = {name: store.judgements(name) for name in asked}
    tasks, judgements = list(chain(*asked.values())), list(chain(*answers.values()))
    people = {person.id: person.name for person in store.annotators.all()}
    marked = [judgement for judgement in judgements if judgement.status == "flagged"]
    return Figures(
        collections=[_collection(store, name, asked[name], answers[name]) for name in asked],
        people=_people(store.annotators.all(), judgements, gold_accuracy(tasks, judgements), store.seconds()),
        position=position_preference(judgements),
        length=length_preference(tasks, judgements),
        flagged=_flagged({task.id: task for task in tasks}, marked[-FLAGGED_SHOWN:][::-1], people),
        flagged_total=len(marked),
    )


def _collection(
    store: AnnotationStore, name: str, tasks: Sequence[Task], judgements: Sequence[Judgement]
) -> CollectionFigures:
    from alignkit.agreement import agreement

    return CollectionFigures(name, store.progress(name), store.wanted(name), agreement(tasks, judgements))


def _people(
    people: Sequence[Person], judgements: Sequence[Judgement], gold: dict[str, Any], seconds: dict[str, float]
) -> list[PersonFigures]:
    counts: Counter[tuple[str, str]] = Counter((j.annotator.id, j.status) for j in judgements)
    took: dict[str, list[float]] = {}
    for judgement in judgements:
        if judgement.status == "ok" and judgement.id in seconds:
            took.setdefault(judgement.annotator.id, []).append(seconds[judgement.id])
    return [
        PersonFigures(
            person,
            counts[person.id, "ok"],
            counts[person.id, "skipped"],
            counts[person.id, "flagged"],
            gold.get(person.id),
            median(took[person.id]) if person.id in took else None,
        )
        for person in people
    ]


def _flagged(tasks: dict[str, Task], marked: Sequence[Judgement], names: dict[str, str]) -> list[Flagged]:
    return [
        Flagged(
            judgement.task_id,
            names.get(judgement.annotator.id, judgement.annotator.id),
            visible(judgement.evidence.text) if judgement.evidence else "",
            show_content(tasks[judgement.task_id].prompt),
            [show(candidate.completion) for candidate in tasks[judgement.task_id].candidates],
        )
        for judgement in marked
    ]
