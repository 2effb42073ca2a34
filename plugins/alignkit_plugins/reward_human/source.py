"""Judgements of people: matched with the tasks, checked, and waited for."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import Paused, UserError
from alignkit.feedback import judged_candidates, superseded_ids
from alignkit.records import Judgement, Task

logger = logging.getLogger("alignkit")


class _Placed(NamedTuple):
    where: str
    judgement: Judgement


class HumanSource:
    """Reads judgements from `place` (a JSONL file or a folder of them)."""

    def __init__(self, place: Path, min_share: float, tasks_file: Path | None) -> None:
        self._place = place
        self._min_share = min_share
        self._tasks_file = tasks_file

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """The newest version of every judgement of these tasks.

        Raises Paused while fewer than `min_share` of the tasks have the answers they need, UserError with
        file:line for a judgement that is damaged or names a candidate its task does not have.
        """
        by_id = {task.id: task for task in tasks}
        current = _newest(_read(self._place))
        mine = [placed for placed in current if placed.judgement.task_id in by_id]
        for placed in mine:
            _check_candidates(placed, by_id[placed.judgement.task_id])
        unknown = len(current) - len(mine)
        if unknown:
            logger.info("%d judgements in %s belong to other tasks", unknown, self._place)
        judgements = [placed.judgement for placed in mine]
        self._wait_for(tasks, judgements)
        return iter(judgements)

    def _wait_for(self, tasks: Sequence[Task], judgements: Sequence[Judgement]) -> None:
        annotators: dict[str, set[str]] = {task.id: set() for task in tasks}
        for judgement in judgements:
            # Who skips or flags a task has answered it (asking again would keep the run waiting for ever); who takes an
            # answer back has not.
            passed = judgement.status in ("skipped", "flagged") and judgement.supersedes is None
            if judgement.status == "ok" or passed:
                annotators[judgement.task_id].add(judgement.annotator.id)
        answered = sum(len(annotators[task.id]) >= task.overlap for task in tasks)
        # The small number keeps 0.1 * 30 from asking for 4 tasks.
        needed = math.ceil(self._min_share * len(tasks) - 1e-9)
        if answered >= needed:
            return
        questions = f"; the questions are in {self._tasks_file}" if self._tasks_file else ""
        raise Paused(
            f"{needed - answered} of {len(tasks)} tasks still need judgements "
            f"({answered} have enough, {needed} are needed)",
            where=self._place,
            hint=f"put JSONL files with judgements there{questions}",
        )


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        others = sorted(p.name for p in place.iterdir() if p.suffix != ".jsonl" and not p.name.startswith("."))
        if others:
            logger.warning("not read, only .jsonl files are: %s", ", ".join(others))
        return sorted(p for p in place.glob("*.jsonl") if not p.name.startswith("."))
    return [place] if place.exists() else []


def _read(place: Path) -> Iterator[_Placed]:
    for path in _files(place):
        try:
            for source in read_rows(str(path)):
                yield _Placed(source.where, _parsed(source.where, source.row))
        except BadRow as bad:
            raise UserError(bad.problem, where=bad.where, hint="mend or remove the line") from None


def _parsed(where: str, row: object) -> Judgement:
    try:
        return Judgement.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        problem = f"{field}: {first['msg']}" if field else first["msg"]
        raise UserError(f"not a judgement: {problem}", where=where, hint="mend or remove the line") from None


def _newest(found: Iterable[_Placed]) -> list[_Placed]:
    """Judgements that no other one supersedes. The same line in two files counts once."""
    by_id: dict[str, _Placed] = {}
    for placed in found:
        first = by_id.setdefault(placed.judgement.id, placed)
        if first.judgement != placed.judgement:
            raise UserError(
                f"another judgement with the id {placed.judgement.id!r} stands in {first.where}",
                where=placed.where,
                hint="an edit is a new judgement with its own id and `supersedes`",
            )
    replaced = superseded_ids(placed.judgement for placed in by_id.values())
    return [placed for id, placed in by_id.items() if id not in replaced]


def _check_candidates(placed: _Placed, task: Task) -> None:
    known = {candidate.id for candidate in task.candidates}
    for id in judged_candidates(placed.judgement):
        if id not in known:
            raise UserError(
                f"candidate {id!r} is not in task {task.id!r}",
                where=placed.where,
                hint=f"its candidates: {', '.join(sorted(known))}",
            )
