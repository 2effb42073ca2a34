"""Signals that end a run: at once, or where a loop can be taken up again."""

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from alignkit.errors import Terminated
from alignkit.files import write_nowhere
from alignkit.processes import is_first

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
HANGUP = getattr(signal, "SIGHUP", None)
# Seconds in which more signals are the first once more: a scheduler tells every process, and a launcher passes on what
# it hears itself.
ECHO = 1.0
MESSAGE = b"\nstopping as soon as the state is saved; the same signal again stops at once\n"


class Echoes:
    """Tells a signal from one that was meant before."""

    def __init__(self) -> None:
        self._first: float | None = None

    def heard(self) -> bool:
        """Whether the signal that has just come is the first one once more."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            return False
        return now - self._first < ECHO


class Interruption:
    """Whether the run was told to end, and how."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._listening = 0
        self._echoes = Echoes()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Answer SIGINT, SIGTERM and SIGHUP inside. Python can do so in the main thread only: else nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What is ignored stays ignored: `nohup` asks for that.
        before = {number: signal.getsignal(number) for number in SIGNALS}
        taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._answer)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the first signal is remembered; whoever comes to a safe point looks at `requested`."""
        self._listening += 1
        try:
            yield
        finally:
            self._listening -= 1
        if self.requested is not None and not self._listening:
            self.end()

    def agreed(self, number: int) -> None:
        """Take over a signal that another process has heard: this one may hear it too, and that is no second one."""
        self.requested = number
        self._echoes.heard()

    def end(self) -> NoReturn:
        """Raise what the signal that came means."""
        assert self.requested is not None
        _raise(self.requested)

    def _answer(self, number: int, frame: FrameType | None) -> Any:
        if number == HANGUP:
            _leave_closed_terminal()
        if self._echoes.heard():
            return
        if self.requested is None and self._listening:
            self.requested = number
            with suppress(OSError):  # nobody may be left to read it
                if is_first():
                    os.write(2, MESSAGE)  # no logging here: the lock of a handler may be held
            return
        _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)


def _leave_closed_terminal() -> None:
    """Let what is still said go nowhere: writing to a terminal that was closed would fail, and with it the run."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                write_nowhere(descriptor)
