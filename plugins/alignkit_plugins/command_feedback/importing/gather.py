"""Reads files row by row into tasks and judgements, and counts what did not come along."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.protocols import SourceRow
from alignkit.records import Judgement, Pairwise, Task
from alignkit_plugins.command_feedback.importing.forms import FormKind
from alignkit_plugins.command_feedback.importing.items import Finishes, Form, Maker, Watched
from alignkit_plugins.command_feedback.importing.native import native_record


@dataclass
class Gathered:
    """What the files held. `judgements` keep their place for error messages; `rejected` are the unusable rows."""

    rows: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    judgements: dict[str, tuple[str, Judgement]] = field(default_factory=dict)
    repeated: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    native: bool = False

    def add_task(self, task: Task) -> None:
        """A task of the same id is the same question, whatever the order of its candidates.

        A known answer that only one of them has is kept, and of two overlaps the larger one.
        """
        before = self.tasks.setdefault(task.id, task)
        if {c.id: c.completion for c in before.candidates} != {c.id: c.completion for c in task.candidates}:
            raise BadRow(f"another task with the id {task.id!r} came before", reason="task id taken")
        gold = before.gold if before.gold is not None else task.gold
        self.lost["known answers (gold) other than the task's first"] += task.gold not in (None, gold)
        self.lost["overlaps smaller than another one of the task"] += before.overlap != task.overlap
        overlap = max(before.overlap, task.overlap)
        self.tasks[task.id] = before.model_copy(update={"gold": gold, "overlap": overlap})

    def add_judgement(self, where: str, judgement: Judgement) -> None:
        """The same judgement again is counted in `repeated`."""
        payload = judgement.payload
        if isinstance(payload, Pairwise) and payload.a == payload.b:
            raise BadRow("a comparison of a candidate with itself", reason="one candidate")
        if judgement.id not in self.judgements:
            self.judgements[judgement.id] = (where, judgement)
        elif self.judgements[judgement.id][1] == judgement:
            self.repeated += 1
        else:
            raise BadRow(f"another judgement with the id {judgement.id!r} came before", reason="judgement id taken")

    def finished(self) -> list[Task]:
        """The tasks; one made here asks for as many answers as it got, alignkit's own stay as they are."""
        if self.native:
            return list(self.tasks.values())
        annotators: dict[str, set[str]] = {}
        for _, judgement in self.judgements.values():
            annotators.setdefault(judgement.task_id, set()).add(judgement.annotator.id)
        return [
            task.model_copy(update={"overlap": max(task.overlap, len(annotators.get(task.id, ())))})
            for task in self.tasks.values()
        ]


def gather(
    files: Sequence[str], kind: FormKind, options: Config, maker: Maker, manager: PluginManager, skip_bad: bool
) -> Gathered:
    """Everything that `files` hold. An unusable row is a UserError with its place, or with `skip_bad` is kept apart."""
    found = Gathered(native=kind.build is None)
    form = kind.build(options, maker, manager) if kind.build is not None else None
    for file in files:
        rows = read_rows(file)
        while True:
            source: SourceRow | None = None
            try:
                source = next(rows, None)
                if source is None:
                    break
                found.rows += 1
                _add(found, source, form)
            except BadRow as bad:
                found.rows += source is None
                _bad(found, bad, source, file, skip_bad)
    if isinstance(form, Finishes):
        form.finish()
    if found.rows == len(found.rejected):
        raise UserError("no usable row", where=", ".join(files), hint=_first_problem(found))
    return found


def _add(found: Gathered, source: SourceRow, form: Form | None) -> None:
    if form is None:
        record = native_record(source)
        if isinstance(record, Task):
            found.add_task(record)
        else:
            found.add_judgement(source.where, record)
        return
    row = Watched(source.row) if isinstance(source.row, dict) else None
    for item in form.items(source if row is None else source._replace(row=row)):
        found.add_task(item.task)
        found.lost += item.lost
        for judgement in item.judgements:
            found.add_judgement(source.where, judgement)
    found.lost += Counter(f"column {column!r}" for column in (row.unread() if row is not None else ()))


def _bad(found: Gathered, bad: BadRow, source: SourceRow | None, file: str, skip: bool) -> None:
    where = bad.where or (source.where if source is not None else file)
    if not skip:
        raise UserError(
            bad.problem, where=where, hint="mend the row, or leave such rows out with --on-bad-row skip"
        ) from None
    row = source.row if source is not None else bad.row
    found.rejected.append({"where": where, "problem": bad.problem, "reason": bad.reason, "row": row})


def _first_problem(found: Gathered) -> str:
    return (
        f"the first: {found.rejected[0]['where']}: {found.rejected[0]['problem']}" if found.rejected else "it is empty"
    )
