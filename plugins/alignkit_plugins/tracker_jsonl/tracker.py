"""Rows of metrics as JSON lines: `{"step": "sft", "index": 12, "loss": 1.7}`."""

import json
import logging
import math
import os
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

from alignkit.errors import UserError
from alignkit.protocols import Metrics, State

logger = logging.getLogger("alignkit")

FILE = "metrics.jsonl"
RESERVED = frozenset({"round", "step", "index"})


class JsonlTracker:
    """Appends to `metrics.jsonl` in a step's folder; each row is on disk when `log` returns.

    The file of an earlier, unfinished try of the step is cut before the first row that is done again: where the
    checkpoint was that the step goes on from, or before the first index that comes again. Numbers that are not finite
    become null.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._file: TextIOWrapper | None = None

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """Nothing to do: where an older file has to be cut is known with the first row."""

    def log(self, step_id: str, index: int, metrics: Metrics) -> None:
        """Write one row. Raises UserError for a metric that takes the name of a column."""
        if not metrics:
            return  # steps without numbers tell only how far they are
        taken = RESERVED & metrics.keys()
        if taken:
            raise UserError(
                f"a metric may not be called {min(taken)!r}: the name is a column of {FILE}",
                where=f"step {step_id}",
                hint="rename it in the component that logs it",
            )
        if self._file is None:
            self._file = self._open(index)
        row = {"step": step_id, "index": index, **{name: _plain(value) for name, value in metrics.items()}}
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def state(self) -> dict[str, int]:
        """How long the file is, once it is on the disk."""
        if self._file is None:
            return {"bytes": 0}  # of this try; that there is a file says nothing
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": os.fstat(self._file.fileno()).st_size}

    def restore(self, state: State) -> None:
        """Cut the file to what it was at `state()`; more rows follow there."""
        length = int(cast("Any", state["bytes"]))
        there = self.path.stat().st_size if self.path.is_file() else 0
        if there < length:
            logger.warning("%s has lost its last %d bytes: rows of metrics are missing", self.path, length - there)
        self.close()
        if length == 0:
            self.path.unlink(missing_ok=True)  # a step that logs nothing has no file
            return
        self._file = self._opened(min(length, there))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, index: int) -> TextIOWrapper:
        """The file with the rows before `index` that an earlier try left."""
        kept = 0
        if self.path.exists():
            with self.path.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n") or not _is_before(line, index):
                        break
                    kept += len(line)
        return self._opened(kept)

    def _opened(self, length: int) -> TextIOWrapper:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        raw = self.path.open("r+b" if self.path.exists() else "w+b")
        raw.truncate(length)
        raw.seek(length)
        # A lone surrogate, which UTF-8 has no bytes for, can only come from a metric's name.
        return TextIOWrapper(raw, "utf-8", errors="backslashreplace", newline="\n", line_buffering=True)


def _is_before(line: bytes, index: int) -> bool:
    """Whether a row of an earlier try stands before `index`; a damaged one does not."""
    try:
        return bool(json.loads(line)["index"] < index)
    except (ValueError, KeyError, TypeError):
        return False


def _plain(value: float) -> float | None:
    """A Python number, also from the scalar types of other libraries; None for NaN and infinities."""
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
