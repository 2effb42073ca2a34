"""Writing so that a reader sees the old file or the new one, never half of one."""

import errno
import hashlib
import json
import math
import numbers
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from alignkit.errors import UserError
from alignkit.redact import redacted

# Weights of large models are identified by size and time: hashing 15 GB before each start would take half a minute.
HASHED_BYTES = 256 * 1024 * 1024
TEMP = ".tmp"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[str]]:
    """Text file at `path` that appears complete (temp file, fsync, rename) or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMP}")
    # Made with the mode that the user's umask leaves: asking for the umask would set it for all threads.
    handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
        sync(path.parent)
    except BaseException as error:
        temp.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that fails does not say into which file
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
        for file in temp.rglob("*"):
            if file.is_file() and not file.is_symlink():
                sync(file)
        sync(temp)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    # Renaming takes microseconds, removing a model seconds: a process killed here should not lose both.
    if path.exists():
        path.replace(old)
    temp.replace(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_nowhere(descriptor: int) -> None:
    """Let what is written to a terminal or pipe that nobody reads any more go nowhere, instead of failing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no such thing for folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def remove_folder(path: Path) -> None:
    """Remove a folder that readers know by its name: it is away at once, however long its files take."""
    away = path.with_name(f".{path.name}.away{TEMP}")
    shutil.rmtree(away, ignore_errors=True)
    path.replace(away)
    shutil.rmtree(away, ignore_errors=True)


def remove_left_overs(folder: Path) -> None:
    """Remove what killed processes left half written below `folder`; nobody else may be writing there."""
    for path in list(folder.rglob(f".*{TEMP}")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def require_plain_files(folder: Path) -> None:
    """Raise UserError if a link below `folder` leads out of it, or something is no file; `folder` itself may be a link.

    In a run's folder that somebody else made, such a link would lead what is written, removed or shown elsewhere, and
    a pipe would hold up whoever reads it. alignkit makes neither.
    """
    inside = folder.resolve()
    for place, names, files in os.walk(folder):
        for path in (Path(place, name) for name in (*names, *files)):
            try:
                mode = path.lstat().st_mode
                leads_out = stat.S_ISLNK(mode) and not path.resolve().is_relative_to(inside)
            except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
                if isinstance(error, FileNotFoundError):  # removed in the meantime
                    continue
                mode, leads_out = stat.S_IFLNK, True
            if leads_out:
                raise UserError(
                    "a link in the run's folder leads out of it",
                    where=path,
                    hint="move a run's folder whole (output=FOLDER); if the link is not yours, trust nothing here",
                )
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise UserError(
                    "something in the run's folder is neither file nor folder", where=path, hint="remove it"
                )


def write_json(path: Path, data: Any) -> None:
    """Indented JSON, written atomically. NaN and infinity become null, as JSON has neither; secrets are masked."""
    with atomic_write(path) as file:
        json.dump(redacted(json_safe(data)), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Parsed JSON of a file that alignkit wrote. Raises ValueError for anything else, however deep it is nested."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


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


def checksum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def fingerprint(path: Path) -> str:
    """Content hash of a file, or size and modification time of a very large one."""
    stat = path.stat()
    if stat.st_size <= HASHED_BYTES:
        return str(checksum(path)["sha256"])
    return f"{stat.st_size}-{stat.st_mtime_ns}"
