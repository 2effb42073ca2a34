"""One run at a time in a folder."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignkit.errors import UserError
from alignkit.files import require_plain_files

LOCK = ".lock"
# Of file systems that have no locks: NFS without its lock service, Lustre mounted without `flock`, some of FUSE.
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
ELSEWHERE = "set output=FOLDER"


class InUse(UserError):
    """Another run has the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two runs in one folder would overwrite each other. The lock goes with the process, however it ends.

    Folders that were made here are removed again if the run is refused before it wrote anything.
    """
    made: list[Path] = []
    try:
        made += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        _remove_empty(made)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:  # no mistake of the user's
            raise
        raise UserError(f"cannot write there: {error.strerror}", where=folder, hint=ELSEWHERE) from None
    try:
        _take(lock, folder)
        _require_writable(folder)
        require_plain_files(folder)
        yield
    except InUse:  # what is there belongs to the other one
        raise
    except UserError:
        if folder in made and folder.is_dir() and {p.name for p in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder)
            _remove_empty(made)
        raise
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise UserError(
                f"this file system has no file locks ({error.strerror}), so two runs could overwrite each other here",
                where=folder,
                hint=f"{ELSEWHERE} on a local disk, or mount this one with locks (Lustre: -o flock)",
            ) from None
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            raise InUse("another alignkit run works in this folder", where=folder, hint="wait, or name=NEW") from None
        raise UserError(f"cannot lock it: {error.strerror}", where=folder, hint=ELSEWHERE) from None
    # Another run that was refused may have removed the folder between our opening the file and locking it.
    path = folder / LOCK
    if not path.exists() or os.fstat(lock).st_ino != path.stat().st_ino:
        raise InUse("another alignkit run has just removed this folder", where=folder, hint="run the command again")


def _require_writable(folder: Path) -> None:
    """A lock file may be there from a time when the folder could be written."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("cannot write there: Permission denied", where=folder, hint=ELSEWHERE)


def _remove_empty(made: list[Path]) -> None:
    """Remove what was made for nothing, as far as nobody else has put something there."""
    for path in made:
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
