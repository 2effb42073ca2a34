"""Judgements in JSONL files: read with file and line, each id once, matched with their tasks."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError
from alignkit.feedback import judged_candidates
from alignkit.records import Judgement, Task

logger = logging.getLogger("alignkit")


class Unfinished(Exception):
    """The last line of a file has no line end and cannot be read: somebody is still writing it. Says where."""


class _Placed(NamedTuple):
    where: str
    judgement: Judgement


def read_judgements(place: Path, tasks: Mapping[str, Task], *, growing: bool = False) -> list[Judgement]:
    """Every judgement of these tasks in `place`, a JSONL file or a folder of them, those that are superseded too.

    Raises UserError with file:line for a judgement that is damaged or names a candidate that its task does not have.
    With `growing`, Unfinished for one that may only be incomplete yet.
    """
    everything = _once(_rows(place, growing))
    mine = [placed for placed in everything if placed.judgement.task_id in tasks]
    for placed in mine:
        _check_candidates(placed, tasks[placed.judgement.task_id])
    unknown = len(everything) - len(mine)
    if unknown:
        logger.info("%d judgements in %s belong to other tasks", unknown, place)
    return [placed.judgement for placed in mine]


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        others = sorted(p.name for p in place.iterdir() if p.suffix != ".jsonl" and not p.name.startswith("."))
        if others:
            logger.warning("not read, only .jsonl files are: %s", ", ".join(others))
        return sorted(p for p in place.glob("*.jsonl") if not p.name.startswith("."))
    return [place] if place.exists() else []


def _rows(place: Path, growing: bool) -> Iterator[_Placed]:
    for path in _files(place):
        before = _stamp(path)
        try:
            for source in read_rows(str(path)):
                yield _Placed(source.where, _parsed(source.where, source.row))
        except BadRow as bad:
            # a file that was written to while it was read may have been read in the middle of a line
            if growing and (_stamp(path) != before or bad.where == _open_line(path)):
                raise Unfinished(bad.where) from None
            raise UserError(bad.problem, where=bad.where, hint="mend or remove the line") from None


def _stamp(path: Path) -> tuple[int, int] | None:
    if not path.exists():  # a link that leads nowhere: the reader says so
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _open_line(path: Path) -> str | None:
    """The place of the last line, if it has no line end."""
    content = path.read_bytes()
    ends = content.count(b"\n")
    return None if content.endswith(b"\n") else f"{path}:{ends + 1}"


def _parsed(where: str, row: object) -> Judgement:
    try:
        return Judgement.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        problem = f"{field}: {first['msg']}" if field else first["msg"]
        raise UserError(f"not a judgement: {problem}", where=where, hint="mend or remove the line") from None


def _once(found: Iterable[_Placed]) -> list[_Placed]:
    """The same line in two files counts once."""
    by_id: dict[str, _Placed] = {}
    for placed in found:
        first = by_id.setdefault(placed.judgement.id, placed)
        if first.judgement != placed.judgement:
            raise UserError(
                f"another judgement with the id {placed.judgement.id!r} stands in {first.where}",
                where=placed.where,
                hint="an edit is a new judgement with its own id and `supersedes`",
            )
    return list(by_id.values())


def _check_candidates(placed: _Placed, task: Task) -> None:
    known = {candidate.id for candidate in task.candidates}
    for id in judged_candidates(placed.judgement):
        if id not in known:
            raise UserError(
                f"candidate {id!r} is not in task {task.id!r}",
                where=placed.where,
                hint=f"its candidates: {', '.join(sorted(known))}",
            )
