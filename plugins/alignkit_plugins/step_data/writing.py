"""One JSONL file per part, written as the records come; all appear together at the end, or none does."""

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from alignkit.data.rows import BadRow, was_cut
from alignkit.files import atomic_write, json_safe
from alignkit.records import Record

REJECTED = "rejected.jsonl"


class PartFiles:
    """Writes records to `<part>.jsonl` and bad rows to `rejected.jsonl` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._open: dict[str, IO[str]] = {}
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, part: str, record: Record) -> None:
        """Append a record. Fields at their default are left out, as `write_records` does."""
        self._file(f"{part}.jsonl").write(record.model_dump_json(exclude_defaults=True) + "\n")
        self.counts[part] += 1

    def reject(self, bad: BadRow) -> None:
        """Append a bad row with its place and problem."""
        # ASCII: what is wrong with the row may be a character that UTF-8 does not have.
        entry: dict[str, Any] = {"where": bad.where, "reason": bad.reason, "problem": bad.problem}
        entry["row"] = json_safe(bad.row)
        if was_cut(bad.row):
            entry["row_cut"] = True
        if bad.rows != 1:
            entry["rows"] = bad.rows
        self._file(REJECTED).write(json.dumps(entry, default=str) + "\n")

    def _file(self, name: str) -> IO[str]:
        if name not in self._open:
            self._open[name] = self._stack.enter_context(atomic_write(self._folder / name))
        return self._open[name]
