"""Reads files row by row into tasks and judgements, and counts what did not come along."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.protocols import SourceRow
from alignkit.records import Judgement, Task
from alignkit_plugins.command_feedback.importing.forms import FormKind
from alignkit_plugins.command_feedback.importing.items import Item, Maker
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

    def add_task(self, task: Task) -> None:
        """A task of the same id is the same question, whatever the order of its candidates."""
        before = self.tasks.setdefault(task.id, task)
        if {c.id: c.completion for c in before.candidates} != {c.id: c.completion for c in task.candidates}:
            raise BadRow(f"another task with the id {task.id!r} came before", reason="task id taken")

    def add_judgement(self, where: str, judgement: Judgement) -> None:
        """The same judgement again is counted in `repeated`."""
        if judgement.id not in self.judgements:
            self.judgements[judgement.id] = (where, judgement)
        elif self.judgements[judgement.id][1] == judgement:
            self.repeated += 1
        else:
            raise BadRow(f"another judgement with the id {judgement.id!r} came before", reason="judgement id taken")

    def finished(self) -> list[Task]:
        """The tasks; one made here asks for as many answers as it got."""
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
    found = Gathered()
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
                _add(found, source, form.items(source) if form is not None else None)
            except BadRow as bad:
                found.rows += source is None
                _bad(found, bad, source, file, skip_bad)
    if found.rows == len(found.rejected):
        raise UserError("no usable row", where=", ".join(files), hint=_first_problem(found))
    return found


def _add(found: Gathered, source: SourceRow, items: Iterator[Item] | None) -> None:
    if items is None:
        record = native_record(source)
        if isinstance(record, Task):
            found.add_task(record)
        else:
            found.add_judgement(source.where, record)
        return
    for item in items:
        found.add_task(item.task)
        found.lost += item.lost
        for judgement in item.judgements:
            found.add_judgement(source.where, judgement)


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
