"""What a step has so far, row by row in a file: a process that is killed loses the row it was writing, at most."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignkit.files import sync

logger = logging.getLogger("alignkit")

_DIGEST = 16
_AROUND = len('["", ') + _DIGEST


class Journal:
    """Rows of JSON, each with a checksum. `append` returns when the row outlives the process.

    It outlives a power cut too, at once or after `sync_seconds`. The first row says what the others are about: a
    journal about something else is not gone on with. What is damaged is cut off, with all that follows it.
    """

    def __init__(self, path: Path, about: str, sync_seconds: float = 0.0) -> None:
        self.path = path
        self.about = about
        self.sync_seconds = sync_seconds
        self._ends: list[int] = []  # of each sound row, the first one included
        self._written = time.monotonic()
        new = not path.exists()
        # without a buffer: what a full disk refuses is not tried again behind our back
        self._file = path.open("w+b" if new else "r+b", buffering=0)
        if self._read() == about:
            self._cut(self._ends[-1])
        else:
            if self._size():
                logger.warning("%s is damaged at its start or of another recipe: it is begun anew", path)
            self._ends = []
            self._cut(0)
            self.append(about)
            if new:
                sync(path.parent)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._ends) - 1

    def rows(self) -> Iterator[Any]:
        """Every row, the oldest first."""
        with self.path.open("rb") as file:
            file.seek(self._ends[0])
            for _ in range(len(self)):
                yield _parsed(file.readline())[0]

    def append(self, row: Any) -> None:
        """Add a row. Raises OSError if it cannot be written; the rows before it stay."""
        self._file.seek(sum(self._ends[-1:]))
        left = memoryview(_line(row))
        while left:
            left = left[self._file.write(left) :]
        if time.monotonic() >= self._written + self.sync_seconds or not self._ends:
            os.fsync(self._file.fileno())
            self._written = time.monotonic()
        self._ends.append(self._file.tell())

    def keep(self, count: int) -> None:
        """Remove all rows but the first `count`."""
        del self._ends[count + 1 :]
        self._cut(self._ends[-1])

    def close(self) -> None:
        """Give the file back; it stays."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _cut(self, length: int) -> None:
        """Leave `length` bytes."""
        if self._size() > length:
            self._file.truncate(length)
            os.fsync(self._file.fileno())

    def _read(self) -> Any:
        """Note where the rows end, up to the first one that is not as it was written; returns the row at the top."""
        top = None
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                found = _parsed(line)
                if not found:
                    how = "is damaged" if line.endswith(b"\n") else "was not written to its end"
                    lost = self._size() - sum(self._ends[-1:])
                    logger.warning("%s:%d %s: %d bytes are done again", self.path, number + 1, how, lost)
                    break
                top = found[0] if number == 0 else top
                self._ends.append(sum(self._ends[-1:]) + len(line))
        return top


def _line(row: Any) -> bytes:
    """`["CHECKSUM", ROW]`. Python's JSON: it has infinity, and every float is read back as it was."""
    text = json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode()
    return b'["%b", %b]\n' % (_checksum(text), text)


def _parsed(line: bytes) -> list[Any]:
    """The row of a line; nothing if the line is not as it was written."""
    text = line[_AROUND:-2]
    return [json.loads(text)] if line == b'["%b", %b]\n' % (_checksum(text), text) else []


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_DIGEST].encode()
