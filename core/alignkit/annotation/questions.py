"""What people are asked about a task: all its candidates at once, two of them, or one.

A task of `collect` has K candidates. A ranking asks about all of them, a pairwise question about two, a rating,
good/bad or critique about one. Judgements of the questions count for the task they came from.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from alignkit.annotation.replies import SIZES, Form
from alignkit.errors import UserError
from alignkit.feedback import judged_candidates
from alignkit.records import Judgement, Task, content_id


class Questions:
    """The questions of some tasks in one form, and the way back from their judgements to the tasks."""

    def __init__(self, tasks: Sequence[Task], form: Form, collection: str = "") -> None:
        """`collection`: the same task asked in two of them makes different questions, with ids of their own.

        Raises UserError for a task with fewer candidates than the form needs.
        """
        self.form = form
        self.of_task = {task.id: list(_questions(task, form, collection)) for task in tasks}
        self.all = [question for questions in self.of_task.values() for question in questions]
        self._parent = {question.id: id for id, questions in self.of_task.items() for question in questions}

    def answered_by(self, judgement: Judgement) -> Iterator[str]:
        """Ids of the questions that a judgement of a question, or of a whole task, answers."""
        if judgement.task_id not in self.of_task:
            if judgement.task_id in self._parent:
                yield judgement.task_id
            return
        judged = set(judged_candidates(judgement))
        for question in self.of_task[judgement.task_id]:
            # who skips a whole task answers all of its questions
            if not judged or judged >= {c.id for c in question.candidates}:
                yield question.id

    def back(self, judgements: Iterable[Judgement]) -> list[Judgement]:
        """The judgements as those of the tasks; those of other tasks are left out."""
        found = []
        for judgement in judgements:
            parent = judgement.task_id if judgement.task_id in self.of_task else self._parent.get(judgement.task_id)
            if parent is not None:
                found.append(judgement.model_copy(update={"task_id": parent}))
        return found


def _questions(task: Task, form: Form, collection: str) -> Iterator[Task]:
    count = len(task.candidates)
    size = SIZES[form] or count
    if count < max(size, 2 if form == "ranking" else 1):
        raise UserError(f"task {task.id!r} has {count} candidate(s), too few for form {form}")
    for chosen in combinations(task.candidates, size):
        id = content_id(collection, task.id, form, *(c.id for c in chosen))
        yield Task(id=id, prompt=task.prompt, candidates=chosen, overlap=task.overlap)
