"""The tracker: a live bar on a terminal, now and then a line elsewhere."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from alignkit.console import console as shared_console
from alignkit.protocols import Metrics
from alignkit_plugins.tracker_progress.plugin import ProgressConfig
from alignkit_plugins.tracker_progress.progress import Progress


class ProgressTracker:
    """Shows one piece of work at a time; `start` ends the one before."""

    def __init__(
        self,
        config: ProgressConfig,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._console = console or shared_console()
        self._clock = clock
        self._view: _LiveBar | _Lines | None = None

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """Begin to show work of `total` units."""
        self.close()
        progress = Progress(step_id, total, unit, self._config.metrics)
        if self._console.is_terminal:
            self._view = _LiveBar(progress, self._console)
        else:
            self._view = _Lines(progress, self._console, self._config.seconds, self._clock())

    def log(self, step_id: str, index: int, metrics: Metrics) -> None:
        """Show one row. One before `start`, such as a first measurement, has no place to be shown."""
        if self._view is None:
            return
        now = self._clock()
        self._view.progress.log(index, metrics, now)
        self._view.refresh(now)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._view is not None:
            self._view.close()
            self._view = None


class _Lines:
    """Plain lines for log files: at most one every `seconds`, and a last one."""

    def __init__(self, progress: Progress, console: Console, seconds: float, now: float) -> None:
        self.progress = progress
        self._console = console
        self._seconds = seconds
        self._printed_at = now
        self._printed = ""

    def refresh(self, now: float) -> None:
        if now - self._printed_at >= self._seconds:
            self._printed_at = now
            self._print()

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        p = self.progress
        parts = [p.count_text, p.speed_text, p.remaining_text, p.metrics_text]
        line = f"{p.step_id}: " + " · ".join(part for part in parts if part)
        if line != self._printed:
            # No wrapping, markup or colours: one row of a log file per line, whatever a metric is called.
            self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
            self._printed = line


class _LiveBar:
    """A bar that stays at the bottom of the terminal while log lines scroll above it."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self.progress = progress
        self._bar = Bar(
            _text("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            *(_text(f"{{task.fields[{name}]}}") for name in ("count", "speed", "left")),
            _text("{task.fields[metrics]}", Column(overflow="ellipsis", no_wrap=True, max_width=60)),
            console=console,
            expand=True,
        )
        self._task: TaskID = self._bar.add_task(progress.step_id, total=progress.total, **self._fields())
        self._open = ExitStack()
        self._open.enter_context(self._bar)
        _logs_above_the_bar(self._open)

    def refresh(self, _: float) -> None:
        self._bar.update(self._task, completed=self.progress.done, **self._fields())

    def close(self) -> None:
        self._open.close()

    def _fields(self) -> dict[str, Any]:
        p = self.progress
        left, metrics = p.remaining_text, p.metrics_text
        return {"count": p.count_text, "speed": p.speed_text, "left": left, "metrics": metrics}


def _text(template: str, column: Column | None = None) -> TextColumn:
    return TextColumn(template, markup=False, table_column=column or Column(no_wrap=True))


def _logs_above_the_bar(until_closed: ExitStack) -> None:
    """Send log handlers that hold the real stderr through the bar's stand-in for it.

    A running bar replaces `sys.stderr`, but a handler keeps the stream it was made with and would write into
    the bar's line.
    """
    for name in ("", "alignkit"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
                handler.setStream(sys.stderr)
                until_closed.callback(handler.setStream, sys.__stderr__)
