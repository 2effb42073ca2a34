"""What to say when the machine refuses to store or open a file."""

import errno
import os
import shutil
from pathlib import Path

from alignkit.errors import AlignkitError, Fault, UserError, said_by, storage_errno

AGAIN = "then run the same command again: what is finished is kept"
FULL = f"free space, or run into another folder with output=FOLDER; {AGAIN}"
# errno -> (what, what to do)
WORDS = {
    errno.ENOSPC: ("the disk is full", FULL),
    errno.EDQUOT: ("the disk quota is used up", FULL),
    errno.EROFS: ("the file system is read-only", f"mount it for writing, or take another folder; {AGAIN}"),
    errno.EACCES: ("permission denied", f"give who runs this the right to it, or take another folder; {AGAIN}"),
    errno.EPERM: ("not permitted", f"give who runs this the right to it, or take another folder; {AGAIN}"),
    errno.EIO: ("the disk failed to read or write", f"look at the system's log, and copy the run elsewhere; {AGAIN}"),
    errno.EMFILE: ("too many files are open in this process", f"raise the limit (ulimit -n); {AGAIN}"),
    errno.ENFILE: ("too many files are open on this machine", f"close programs or raise the limit; {AGAIN}"),
}
# What the user can allow; the others are the machine's.
USERS = (errno.EROFS, errno.EACCES, errno.EPERM)


def storage_error(error: BaseException, folder: Path | None = None) -> AlignkitError | None:
    """The message for an error of the file system, with its path and how much is free; None for any other error.

    `folder` is where the work was done, for libraries that do not say which file it was.
    """
    number = storage_errno(error)
    if number is None:
        return None
    what, hint = WORDS[number]
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    path = Path(os.fsdecode(named)) if isinstance(named, str | bytes | os.PathLike) else folder
    free = _free(path) if number == errno.ENOSPC else ""
    said = "" if isinstance(error, OSError) and named else f" ({said_by(error)})"
    kind = UserError if number in USERS else Fault
    return kind(f"{what}{free}{said}", where=path, hint=hint)


def _free(path: Path | None) -> str:
    """`, 12.0 MiB are free`, of the disk that holds the path."""
    for place in (path, *(path.absolute().parents if path is not None else ())):
        if place is not None and place.is_dir():
            return f", {shutil.disk_usage(place).free / 2**20:.1f} MiB are free"
    return ""
