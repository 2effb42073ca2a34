"""JSONL files of records: written atomically, read through a memory map, so that memory does not grow with the file."""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from pydantic import ValidationError

from alignkit.errors import UserError
from alignkit.files import atomic_write
from alignkit.records import Record

R = TypeVar("R", bound=Record)


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write one record a line; returns how many. Fields at their default are left out, as TRL's readers expect."""
    count = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(record.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
    return count


class RecordFile(Sequence[R]):
    """Random access to a JSONL file of one record type. Raises UserError naming the line of a bad record."""

    def __init__(self, path: Path, model: type[R]) -> None:
        self.path = path
        self.model = model
        self._starts = np.zeros(1, dtype=np.int64)
        self._map: mmap.mmap | bytes = b""
        if not path.is_file():
            raise UserError("no such record file", where=path)
        if path.stat().st_size:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            ends = [0]
            at = self._map.find(b"\n")
            while at != -1:
                ends.append(at + 1)
                at = self._map.find(b"\n", at + 1)
            if ends[-1] != len(self._map):
                ends.append(len(self._map))
            self._starts = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> R: ...

    @overload
    def __getitem__(self, index: slice) -> list[R]: ...

    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        line = self._map[int(self._starts[index]) : int(self._starts[index + 1])]
        try:
            return self.model.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(p) for p in first["loc"])
            problem = f"{field}: {first['msg']}" if field else first["msg"]
            raise UserError(
                f"not a {self.model.__name__}: {problem}", where=f"{self.path}:{index + 1}", hint="mend the line"
            ) from None

    def __iter__(self) -> Iterator[R]:
        return (self[i] for i in range(len(self)))
