"""Records as token ids: encoded once, kept in the run's folder, and read through a memory map.

What is kept stands in the run's folder because it travels with it, is removed with it, and because that folder is the
one place that the user has given us room in. Nothing depends on it: what is missing or damaged is made again.
"""

import logging
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.batches import Row
from alignkit.checkpoints.files import DamagedError, read_state, write_state
from alignkit.data.store import RecordFile
from alignkit.errors import storage_errno
from alignkit.files import atomic_folder, digest, fingerprint, remove_folder
from alignkit.processes import is_first
from alignkit.records import Record

logger = logging.getLogger("alignkit")

R = TypeVar("R", bound=Record)

FOLDER = "tokens"
FORM = 1
# Below so many bytes of records, encoding takes about as long as looking for what was kept.
LEAST = 1_000_000
# Files of a run that are in use at once, a few rounds of them; the longest unused are removed.
KEPT = 16


@dataclass(frozen=True)
class EncodedRecords:
    """The ids of all records behind one another; each record has `parts` pieces (prompt, completion, …).

    Piece n is `ids[starts[n] : starts[n + 1]]`.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    parts: int

    def __len__(self) -> int:
        return (len(self.starts) - 1) // self.parts


def encode_records(
    records: Iterable[R],
    encode: Callable[[R], Sequence[Sequence[int]]],
    parts: int,
    identity: str | None,
    run_folder: Path | None,
) -> EncodedRecords:
    """`encode(record)`, `parts` lists of ids, of every record; from the run's folder if it was done there before.

    `identity` says what the ids depend on beside the records: `TextEncoder.identity`, or the `encoding_id` of a policy,
    which need not have one. None: nothing is kept.
    """
    kept = None
    if isinstance(records, RecordFile) and identity is not None and run_folder is not None:
        kept = _place(records, parts, identity, run_folder)
    found = _load(kept, len(records), parts) if kept is not None and isinstance(records, RecordFile) else None
    if found is not None:
        logger.info("tokens of %d records from the cache", len(found))
        return found
    ids, starts = array("i"), array("q", [0])
    for record in records:
        for piece in encode(record):
            ids.extend(piece)
            starts.append(len(ids))
    made = EncodedRecords(np.frombuffer(ids, np.int32), np.frombuffer(starts, np.int64), parts)
    if kept is not None and is_first():
        _keep(kept, made)
    return made


def _place(records: RecordFile[Any], parts: int, identity: str, run_folder: Path) -> Path | None:
    """The folder of what these records are encoded as."""
    if records.path.stat().st_size < LEAST:
        return None
    key = digest([FORM, fingerprint(records.path), records.model.__name__, parts, identity])
    return run_folder / FOLDER / key[:32]


def _load(folder: Path, count: int, parts: int) -> EncodedRecords | None:
    if not folder.is_dir():
        return None
    try:
        state, _ = read_state(folder)
        ids, starts = state["ids"].numpy(), state["starts"].numpy()
        if len(starts) != count * parts + 1 or starts[-1] != len(ids):
            raise DamagedError("it is of other records")
    except (DamagedError, KeyError) as error:
        logger.warning("tokens in %s are damaged (%s): they are made again", folder, error)
        if is_first():
            remove_folder(folder)
        return None
    if is_first():
        os.utime(folder)
    return EncodedRecords(ids, starts, parts)


def _keep(folder: Path, made: EncodedRecords) -> None:
    """A disk that refuses costs the time to encode again, and no more."""
    try:
        with atomic_folder(folder) as temp:
            write_state(temp, {"ids": torch.from_numpy(made.ids), "starts": torch.from_numpy(made.starts)}, {})
        others = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for old in others[:-KEPT]:
            remove_folder(old)
    except Exception as error:
        if storage_errno(error) is None:
            raise
        logger.warning("tokens are not kept for the next time: %s: %s", folder, error)


class CompletionRows(Sequence[Row]):
    """Rows made when they are asked for: ids `start_R` to `end_R`, targets from `target_R` on."""

    def __init__(
        self, ids: NDArray[np.int32], start_R: NDArray[np.int64], target_R: NDArray[np.int64], end_R: NDArray[np.int64]
    ) -> None:
        self._ids, self._start_R, self._target_R, self._end_R = ids, start_R, target_R, end_R

    def __len__(self) -> int:
        return len(self._start_R)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, target, end = int(self._start_R[index]), int(self._target_R[index]), int(self._end_R[index])
        return Row(self._ids[start:end].tolist(), [False] * (target - start) + [True] * (end - target))
