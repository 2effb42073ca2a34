"""Something happens right before the n-th change of the file system below a folder, in a process of its own.

Python tells an audit hook of each file that is opened, renamed or removed, before it is done, so that every state in
which a kill or a full disk can leave a folder can be tried, one after the other.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignkit.engine.storage import storage_error
from alignkit.errors import AlignkitError

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.symlink", "shutil.rmtree"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
BUG = 1


def in_child(work: Callable[[], Any], hook: Callable[[], Any] | None = None) -> int:
    """Do `work` in a forked process; its exit status as the command would have it, negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        status = BUG
        try:
            if hook is not None:
                hook()
            work()
            status = 0
        except AlignkitError as error:
            status = error.exit_status
        except Exception as error:
            found = storage_error(error)
            status = found.exit_status if found is not None else BUG
            if found is None:
                sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_before(number: int, folder: Path) -> Callable[[], None]:
    """A hook that ends the process before its `number`-th change below `folder`, as a power cut would."""
    return _counting(number, folder, lambda event, path: os.kill(os.getpid(), signal.SIGKILL))


def full_from(number: int, folder: Path) -> Callable[[], None]:
    """A hook that refuses, from the `number`-th change below `folder` on, all that takes space."""

    def refuse(event: str, path: str) -> None:
        if event in {"open", "os.mkdir", "os.link", "os.symlink"}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    return _counting(number, folder, refuse, onwards=True)


def _counting(number: int, folder: Path, act: Callable[[str, str], None], onwards: bool = False) -> Callable[[], None]:
    inside = str(folder)
    seen = 0

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != "open" and event not in CHANGES:
            return
        if event == "open" and not int(arguments[2] or 0) & WRITING:
            return
        path = arguments[0]
        # Removing a tree names its files by a handle of the folder; what matters is that something is removed.
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.fsdecode(path)
        if not text.startswith(inside) and not (event in {"os.remove", "os.rmdir"} and "/" not in text):
            return
        seen += 1
        if seen == number or (onwards and seen > number):
            act(event, text)

    return lambda: sys.addaudithook(listen)
