"""The errors a user meets. Each carries the exit status of the command that raised it.

0 done · 1 our bug (any other exception) · 2 the user's mistake · 3 paused for labels · 4 stopped by a fault.
"""

import errno
import re
import signal
import sys
from pathlib import Path
from typing import Any

from alignkit.redact import redact


class AlignkitError(Exception):
    """Base of all errors that are shown as a message, without a traceback.

    `what` says what is wrong, `where` names file, line or key, `hint` what to do about it. Secrets are masked.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        what = redact(what)
        super().__init__(what)
        self.what = what
        self.where = redact(str(where)) if where is not None else None
        self.hint = redact(hint) if hint is not None else None

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n  -> {self.hint}" if self.hint else ""
        return f"{place}{self.what}{hint}"


class UserError(AlignkitError):
    """A mistake in a recipe, a file or a command: nothing was changed on disk."""

    exit_status = 2


class Paused(AlignkitError):
    """The run waits for people. Running the same command again goes on."""

    exit_status = 3


class Fault(AlignkitError):
    """The run cannot go on: non-finite numbers, a reward source that fails, memory or disk."""

    exit_status = 4


class Terminated(SystemExit):
    """The process was told to end by a signal, SIGTERM if none is given; the exit status is 128 + its number.

    Apart from any other SystemExit, which a plugin may raise by calling sys.exit.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


class EndedElsewhere(SystemExit):
    """Another process of the run (`rank`) has come to its end, with the same exit status, and has said why."""

    def __init__(self, rank: int, status: int) -> None:
        super().__init__(status)
        self.rank = rank


# What passes through the nets that keep a plugin's failures to itself.
ENDINGS = (KeyboardInterrupt, Terminated, EndedElsewhere)


class AlignkitDeprecationWarning(FutureWarning):
    """Something a plugin or recipe uses will be removed. FutureWarning, because Python hides DeprecationWarning."""


def did_you_mean(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or the empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


SAID = 2000


def said_by(error: BaseException) -> str:
    """`TYPE: MESSAGE`, of a very long one the beginning and the end: it may quote whatever the code was given."""
    whole = _all_said_by(error)
    return whole if len(whole) <= SAID else f"{whole[: SAID // 2]} … {whole[-SAID // 2 :]}"


def _all_said_by(error: BaseException) -> str:
    """The exception's class may be a stranger's too, and fail at saying it."""
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


# What libraries say that have no exception of their own for it.
NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


def out_of_memory(error: BaseException) -> bool:
    """torch has its own error on CUDA and a plain RuntimeError on the CPU; torch need not be imported here."""
    torch: Any = sys.modules.get("torch")
    if (torch is not None and isinstance(error, torch.OutOfMemoryError)) or isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in _all_said_by(error) for text in NO_MEMORY)


# The machine refuses to store or open something, whatever the program does.
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE)
SQLITE = {"SQLITE_FULL": errno.ENOSPC, "SQLITE_READONLY": errno.EROFS, "SQLITE_IOERR": errno.EIO}


def storage_errno(error: BaseException) -> int | None:
    """The number in `STORAGE` that the error stands for, or None.

    Libraries written in Rust (safetensors, tokenizers) say it in the message only, sqlite has names of its own.
    """
    found: int | None = None
    if isinstance(error, OSError):
        found = error.errno
    elif isinstance(error, Exception) and not isinstance(error, AlignkitError):
        said = re.search(r"\(os error (\d+)\)", _all_said_by(error))
        found = int(said.group(1)) if said else None
        for name, number in SQLITE.items():
            if str(getattr(error, "sqlite_errorname", "")).startswith(name):
                found = number
    if found in (errno.EACCES, errno.EPERM) and isinstance(error, OSError) and error.filename is None:
        return None  # of something that is no file: a socket, a process
    return found if found in STORAGE else None
