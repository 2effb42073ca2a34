"""One run at a time in a folder."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignkit.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two runs in one folder would overwrite each other. The lock goes with the process, however it ends."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=folder, hint="set output=FOLDER") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                "another alignkit run works in this folder", where=folder, hint="wait, or name=NEW"
            ) from None
        yield
    except UserError:
        if made and {p.name for p in folder.iterdir()} <= {".lock"}:
            shutil.rmtree(folder)
        raise
    finally:
        os.close(lock)
