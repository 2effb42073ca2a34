"""The terminal: one rich console on stderr, shared so that log lines and progress bars do not tear each other."""

import errno
import logging
from functools import cache

from rich.console import Console
from rich.logging import RichHandler

from alignkit.files import write_nowhere
from alignkit.processes import is_first
from alignkit.redact import redact
from alignkit.terminal import printable


class _Console(Console):
    """Goes on without a reader: a run must not end because the terminal or pipe that it is shown in is gone."""

    def on_broken_pipe(self) -> None:
        """Rich ends the process here."""
        write_nowhere(2)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:  # a closed terminal
                raise
            self.on_broken_pipe()


@cache
def console() -> Console:
    """The shared console."""
    return _Console(stderr=True)


class _Plain(logging.Formatter):
    """Messages and tracebacks without secrets, and without what would steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact(super().format(record)))


def set_up_logging(verbose: bool = False) -> None:
    """Log lines through the shared console; of several processes the first one speaks."""
    handler = RichHandler(console=console(), show_level=False, show_path=False, markup=False, log_time_format="%X")
    handler.setFormatter(_Plain("%(message)s"))
    logger = logging.getLogger("alignkit")
    logger.handlers = [handler]
    logger.setLevel((logging.DEBUG if verbose else logging.INFO) if is_first() else logging.CRITICAL)
    logger.propagate = False
