"""Writing so that a reader sees the old file or the new one, never half of one."""

import hashlib
import json
import math
import numbers
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# Weights of large models are identified by size and time: hashing 15 GB before each start would take half a minute.
HASHED_BYTES = 256 * 1024 * 1024
TEMP = ".tmp"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[str]]:
    """Text file at `path` that appears complete (temp file, fsync, rename) or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temp = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMP, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; what a run writes is as readable as the user's umask says.
        umask = os.umask(0)
        os.umask(umask)
        Path(temp).chmod(0o666 & ~umask)
        Path(temp).replace(path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Folder at `path` that appears complete or not at all; an older one is replaced."""
    temp, old = path.with_name(f".{path.name}{TEMP}"), path.with_name(f".{path.name}.old{TEMP}")
    for left_over in (temp, old):
        shutil.rmtree(left_over, ignore_errors=True)
    temp.mkdir(parents=True)
    try:
        yield temp
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    # Renaming takes microseconds, removing a model seconds: a process killed here should not lose both.
    if path.exists():
        path.replace(old)
    temp.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def remove_left_overs(folder: Path) -> None:
    """Remove what killed processes left half written below `folder`; nobody else may be writing there."""
    for path in list(folder.rglob(f".*{TEMP}")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Indented JSON, written atomically. NaN and infinity become null, as JSON has neither."""
    with atomic_write(path) as file:
        json.dump(json_safe(data), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Parsed JSON of a file that alignkit wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def json_safe(data: Any) -> Any:
    """A copy of `data` in which non-finite floats are None and numbers are Python's own."""
    if isinstance(data, dict):
        return {str(k): json_safe(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [json_safe(v) for v in data]
    if isinstance(data, bool | str) or data is None:
        return data
    if isinstance(data, numbers.Integral):  # numpy's scalars too: a finished step must not be lost over its summary
        return int(data)
    if isinstance(data, numbers.Real):
        return float(data) if math.isfinite(data) else None
    return data


def digest(data: Any) -> str:
    """SHA-256 of plain data in canonical JSON."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def fingerprint(path: Path) -> str:
    """Content hash of a file, or size and modification time of a very large one."""
    stat = path.stat()
    if stat.st_size <= HASHED_BYTES:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return f"{stat.st_size}-{stat.st_mtime_ns}"
