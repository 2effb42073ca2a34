"""The errors a user meets. Each carries the exit status of the command that raised it.

0 done · 1 our bug (any other exception) · 2 the user's mistake · 3 paused for labels · 4 stopped by a fault.
"""

import sys
from pathlib import Path
from typing import Any


class AlignkitError(Exception):
    """Base of all errors that are shown as a message, without a traceback.

    `what` says what is wrong, `where` names file, line or key, `hint` what to do about it.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = str(where) if where is not None else None
        self.hint = hint

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
    """The process was told to end. Apart from any other SystemExit, which a plugin may raise by calling sys.exit."""


# What passes through the nets that keep a plugin's failures to itself.
ENDINGS = (KeyboardInterrupt, Terminated)


class AlignkitDeprecationWarning(FutureWarning):
    """Something a plugin or recipe uses will be removed. FutureWarning, because Python hides DeprecationWarning."""


def did_you_mean(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or the empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def said_by(error: BaseException) -> str:
    """`TYPE: MESSAGE`; the exception's class may be a stranger's too, and fail at saying it."""
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """torch has its own error on CUDA and a plain RuntimeError on the CPU; torch need not be imported here."""
    torch: Any = sys.modules.get("torch")
    own = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return own or isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in said_by(error)
