"""Files that a step adds rows to while it works."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from alignkit.files import sync
from alignkit.processes import is_first

logger = logging.getLogger("alignkit")


class RowFile:
    """JSON lines that are added one after the other, each once however often the step is interrupted.

    `length` is that of this try, with what stood there at the checkpoint it goes on from; what an earlier try wrote
    behind it is cut off. While `repeating()`, work is done again that came before the checkpoint, and its rows are
    there already.
    """

    def __init__(self, path: Path, repeating: Callable[[], bool] = lambda: False) -> None:
        self.path = path
        self.length = 0
        self._repeating = repeating

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows. A lone surrogate, which UTF-8 has no bytes for, is written as an escape."""
        if self._repeating() or not is_first():
            return
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        data = text.encode("utf-8", "backslashreplace")
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self.length)
            file.seek(self.length)
            file.write(data)
        self.length += len(data)

    def kept(self) -> int:
        """The length, once so much is on the disk."""
        if self.length and is_first():
            sync(self.path)
        return self.length

    def cut(self) -> None:
        """Cut off what an earlier try wrote behind `length`."""
        if not is_first():
            return
        there = self.path.stat().st_size if self.path.is_file() else 0
        if there < self.length:
            logger.warning("%s has lost its last %d bytes: rows are missing", self.path, self.length - there)
            self.length = there
        if self.length:
            os.truncate(self.path, self.length)
        else:
            self.path.unlink(missing_ok=True)
