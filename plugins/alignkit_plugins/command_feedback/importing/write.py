"""Puts what was imported into a folder, or judgements into a store that has their tasks."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignkit.annotation import AnnotationStore, Refused
from alignkit.annotation.reading import JUDGEMENTS, STORE, TASKS, check_known, is_store
from alignkit.data.store import write_records
from alignkit.errors import UserError
from alignkit.files import atomic_write
from alignkit.records import Judgement, Task, content_id
from alignkit_plugins.command_feedback.importing.gather import Gathered

REJECTED = "rejected.jsonl"


class Written(NamedTuple):
    """Into a store: `refused` are ids of judgements with the reason, `known` came before."""

    tasks: int
    judgements: int
    known: int
    refused: list[tuple[str, str]]


def store_at(place: Path) -> Path | None:
    """The store that `place` is or that the run there has; None for what is to be a feedback folder."""
    if place.is_file():
        if not is_store(place):
            raise UserError("this file is no annotation store", where=place, hint="name a folder, a run or a store")
        return place
    return place / STORE if (place / STORE).is_file() else None


def check_free(folder: Path, force: bool) -> None:
    """Raise UserError if feedback lies there already."""
    if (folder / "manifest.json").is_file() or (folder / "recipe.json").is_file():
        raise UserError(
            "this folder belongs to a run", where=folder, hint="name a new folder, or a run that has a store"
        )
    there = [name for name in (TASKS, JUDGEMENTS, REJECTED) if (folder / name).exists()]
    if there and not force:
        raise UserError(f"the folder has {', '.join(there)} already", where=folder, hint="--force writes over it")


def write_folder(found: Gathered, folder: Path) -> Written:
    """tasks.jsonl, judgements.jsonl, and rejected.jsonl if there are rejected rows."""
    tasks = found.finished()
    check_known(tasks, found.judgements.values())
    write_rejected(found.rejected, folder / REJECTED)
    write_records(folder / JUDGEMENTS, (judgement for _, judgement in found.judgements.values()))
    write_records(folder / TASKS, tasks)
    return Written(len(tasks), len(found.judgements), 0, [])


def write_rejected(rejected: Iterable[Mapping[str, Any]], path: Path) -> None:
    """One row a line with its place and problem; an older file goes."""
    rows = list(rejected)
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, default=str) + "\n")


def write_store(found: Gathered, path: Path) -> Written:
    """Give the judgements to a store. Tasks are found by their id, else by prompt and texts; none is added."""
    store = AnnotationStore(path, create=False)
    try:
        tasks = store.tasks()
        ids = {task.id for task in tasks}
        by_content: dict[str, list[Task]] = defaultdict(list)
        for task in tasks:
            by_content[_contents(task)].append(task)
        results: Counter[bool] = Counter()
        refused: list[tuple[str, str]] = []
        for where, judgement in found.judgements.values():
            imported = found.tasks.get(judgement.task_id)
            if judgement.task_id not in ids and imported is not None:
                same = by_content.get(_contents(imported), [])
                if len(same) > 1:
                    alike = ", ".join(repr(task.id) for task in same)
                    refused.append((f"{where} ({judgement.id})", f"several tasks have these texts: {alike}"))
                    continue
                judgement = _moved(judgement, imported, same[0]) if same else judgement
            try:
                results[store.submit(judgement)] += 1
            except Refused as reason:
                refused.append((f"{where} ({judgement.id})", reason.what))
        return Written(0, results[True], results[False], refused)
    finally:
        store.close()


def _contents(task: Task) -> str:
    return content_id(task.prompt, *sorted(c.completion for c in task.candidates))


def _moved(judgement: Judgement, old: Task, new: Task) -> Judgement:
    """The judgement with the ids of a task that has the same texts; equal texts of one task stay apart."""
    by_text: dict[str, list[str]] = defaultdict(list)
    for candidate in new.candidates:
        by_text[candidate.completion].append(candidate.id)
    names = {c.id: by_text[c.completion].pop(0) for c in old.candidates}

    def renamed(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [renamed(inner) for inner in value]
        return names.get(value, value) if isinstance(value, str) else value

    data = judgement.model_dump()
    payload = data["payload"]
    if payload is not None:
        named = {key: renamed(payload[key]) for key in ("a", "b", "candidate", "groups") if key in payload}
        data["payload"] = {**payload, **named}
    data |= {"task_id": new.id, "presented_order": renamed(data["presented_order"])}
    return Judgement.model_validate(data)
