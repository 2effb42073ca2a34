"""What an annotation store answers."""

from typing import Literal, NamedTuple

from alignkit.errors import AlignkitError
from alignkit.records import Instructions, Judgement, Task

Form = Literal["ranking", "pairwise", "rating", "binary", "critique"]
# How many candidates a form asks about; a ranking takes two or more.
SIZES: dict[Form, int | None] = {"ranking": None, "pairwise": 2, "rating": 1, "binary": 1, "critique": 1}


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


class Published(NamedTuple):
    """A task, how it is asked, and where it belongs."""

    task: Task
    form: Form
    collection: str


class Workload(NamedTuple):
    """One annotator's part of a collection: what he has answered, what he may still get."""

    answered: int
    left: int


class Briefing(NamedTuple):
    """What is told with a task: its collection, and the version of the instructions."""

    collection: str
    instructions: Instructions


class Standing(NamedTuple):
    """An annotator's newest judgement of a task. Undone: he took his answer back, and is asked again."""

    judgement: Judgement
    undone: bool


class Past(NamedTuple):
    """A current judgement, with what was asked, when (seconds since 1970) and how long the answer took."""

    judgement: Judgement
    task: Task
    form: Form
    created: float
    seconds: float | None
