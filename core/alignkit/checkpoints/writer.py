"""Writes one thing at a time in a thread of its own, while the step goes on."""

import threading
import time
from collections.abc import Callable


class BackgroundWriter:
    """At most one piece of work is under way. Its error waits for whoever asks next.

    The thread is made for each piece and is no daemon: a process that ends lets it finish first, so that nothing is
    half written but by a kill.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0  # that the last piece of work took
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Do `work` in the background, after `wait()`."""
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,), name="alignkit-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is under way any more. Raises what the work has raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _do(self, work: Callable[[], None]) -> None:
        begun = self._clock()
        try:
            work()
        except Exception as error:  # raised again by `wait`
            self._error = error
        finally:
            self.seconds = self._clock() - begun
