"""The forms that `feedback export` writes, and their files."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.annotation.reading import Feedback
from alignkit.errors import UserError
from alignkit.files import atomic_write
from alignkit_plugins.command_feedback.exporting import pairs, tools
from alignkit_plugins.command_feedback.exporting.pairs import Exported


def records(feedback: Feedback) -> Exported:
    """Every task and judgement as it is: nothing is lost."""
    rows = [record.model_dump(mode="json", exclude_defaults=True) for record in (*feedback.tasks, *feedback.judgements)]
    return Exported(rows, Counter())


EXPORTS: Mapping[str, Callable[[Feedback], Exported]] = {
    "trl": pairs.trl,
    "trl-conversational": pairs.trl_conversational,
    "kto": pairs.kto,
    "hh": pairs.hh,
    "argilla": tools.argilla,
    "label-studio": tools.label_studio,
    "jsonl": records,
    "parquet": pairs.table,
}
ENDINGS = {"parquet": ".parquet", "label-studio": ".json"}


def export(feedback: Feedback, form: str, path: Path, force: bool) -> dict[str, Any]:
    """Write the file; returns its path, number of rows and what it does not hold."""
    ending = ENDINGS.get(form, ".jsonl")
    if path.suffix != ending:
        raise UserError(f"a file of the form {form} ends in {ending}", where=path)
    if path.exists() and not force:
        raise UserError("the file is there already", where=path, hint="--force writes over it")
    kept = feedback if form == "jsonl" else _without_gold(feedback)
    exported = EXPORTS[form](kept)
    exported.lost["gold tasks, which nothing should learn from"] += len(feedback.tasks) - len(kept.tasks)
    lost = {what: count for what, count in exported.lost.items() if count}
    if not exported.rows:
        told = "; ".join(f"{what}: {count}" for what, count in lost.items()) or "there is no judgement"
        raise UserError(f"nothing in this feedback can be told in the form {form}", hint=told)
    _write(exported.rows, form, path)
    return {"file": str(path), "form": form, "rows": len(exported.rows), "lost": lost}


def _without_gold(feedback: Feedback) -> Feedback:
    """Own records say which tasks are gold; in other forms they would be data to train on like any other."""
    gold = {task.id for task in feedback.tasks if task.gold is not None}
    return Feedback(
        [task for task in feedback.tasks if task.id not in gold],
        [judgement for judgement in feedback.judgements if judgement.task_id not in gold],
    )


def _write(rows: Sequence[Mapping[str, Any]], form: str, path: Path) -> None:
    if form == "parquet":
        _write_parquet(rows, path)
        return
    with atomic_write(path) as file:
        if form == "label-studio":
            json.dump(rows, file, ensure_ascii=False, indent=1)
            file.write("\n")
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.tmp")
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temp)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
