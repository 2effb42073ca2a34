"""How far a piece of work has come, as numbers and as short texts; knows nothing of terminals."""

import math
from collections import deque

from alignkit.protocols import Metrics

SHOWN = 5
WINDOW = 50


class Progress:
    """Counts units of work. Speed is the mean over the last `WINDOW` rows, so that it follows a change.

    The first row only sets the origin: a step that resumes begins far from zero.
    """

    def __init__(self, step_id: str, total: int | None, unit: str, wanted: tuple[str, ...]) -> None:
        self.step_id = step_id
        self.total = total
        self.unit = unit
        self.wanted = wanted
        self.done = 0
        self._seen: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._latest: dict[str, float] = {}

    def log(self, index: int, metrics: Metrics, now: float) -> None:
        """Take in one row; `index` counts what is done."""
        self.done = index
        self._latest.update(metrics)
        if not self._seen or self._seen[-1][1] < self.done:
            self._seen.append((now, self.done))

    @property
    def speed(self) -> float | None:
        """Units per second, None before there are two rows."""
        (t0, n0), (t1, n1) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        return (n1 - n0) / (t1 - t0) if t1 > t0 and n1 > n0 else None

    @property
    def count_text(self) -> str:
        """`120/500 steps`."""
        ending = "" if self.unit.endswith("s") else "es" if self.unit.endswith(("ch", "sh", "x")) else "s"
        count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        return f"{count} {self.unit}{ending}"

    @property
    def speed_text(self) -> str:
        """`3.1 step/s`, or the inverse for slow work."""
        if self.speed is None:
            return ""
        return f"{self.speed:.3g} {self.unit}/s" if self.speed >= 1 else f"{1 / self.speed:.3g} s/{self.unit}"

    @property
    def remaining_text(self) -> str:
        """`2:03 left`, empty when nobody can know or nothing is left."""
        if self.speed is None or self.total is None or self.done >= self.total:
            return ""
        seconds = math.ceil((self.total - self.done) / self.speed)
        hours, minutes = divmod(seconds // 60, 60)
        clock = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
        return f"{clock}:{seconds % 60:02d} left"

    @property
    def metrics_text(self) -> str:
        """The wanted metrics that the work has; the first ones of any name if it has none of them."""
        names = [name for name in self.wanted if name in self._latest] or list(self._latest)[:3]
        return " ".join(f"{name} {self._latest[name]:.3g}" for name in names[:SHOWN])
