"""Metrics as curves, read row by row into a bounded number of points.

A series keeps at most `POINTS` buckets. When they are full, neighbours are merged and every later bucket holds twice
as many rows: memory stays the same for a thousand rows and for a million, and means, lowest and highest values are
exact for the rows of each bucket.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from alignkit.report.read import RunFiles, json_row

POINTS = 300
MAX_SERIES = 2000
# Larger numbers overflow inside the drawing library; they are counted like NaN.
LARGEST = 1e100
KEYS = frozenset({"round", "step", "index"})


class Key(NamedTuple):
    """What a curve belongs to."""

    step: str
    metric: str
    round: int


class Bucket(NamedTuple):
    """Neighbouring rows: sums over all `rows` and over the `finite` values among them."""

    rows: int
    index_sum: float
    finite: int
    value_sum: float
    low: float
    high: float

    def merged(self, other: "Bucket") -> "Bucket":
        """Both together."""
        return Bucket(
            self.rows + other.rows, self.index_sum + other.index_sum, self.finite + other.finite,
            self.value_sum + other.value_sum, min(self.low, other.low), max(self.high, other.high),
        )  # fmt: skip

    @property
    def index(self) -> float:
        """Mean index."""
        return self.index_sum / self.rows

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN (a gap in the curve) if there is none."""
        return self.value_sum / self.finite if self.finite else math.nan


@dataclass
class Series:
    """One curve. `width` is the number of rows per bucket, `dropped` counts values that are not finite."""

    buckets: list[Bucket] = field(default_factory=list)
    width: int = 1
    dropped: int = 0
    first: float = math.nan
    last: float = math.nan

    def add(self, index: float, value: float) -> None:
        """One row; a value that is not finite makes a gap."""
        if math.isnan(value):
            self.dropped += 1
            new = Bucket(1, index, 0, 0.0, math.inf, -math.inf)
        else:
            self.first = value if math.isnan(self.first) else self.first
            self.last = value
            new = Bucket(1, index, 1, value, value, value)
        if self.buckets and self.buckets[-1].rows < self.width:
            self.buckets[-1] = self.buckets[-1].merged(new)
            return
        if len(self.buckets) == POINTS:
            pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
            self.buckets = [a.merged(b) for a, b in pairs]
            self.width *= 2
        self.buckets.append(new)

    @property
    def drawable(self) -> bool:
        """Whether there is any finite value."""
        return not math.isnan(self.last)


@dataclass
class Curves:
    """All series of a run, in order of appearance, and what could not be used."""

    series: dict[Key, Series] = field(default_factory=dict)
    rows: int = 0
    unreadable: int = 0
    refused: set[tuple[str, str]] = field(default_factory=set)

    def read(self, lines: Iterable[str], round: int | None = None) -> None:
        """Take in rows; `round` is for files of one step, whose rows do not carry it."""
        for line in lines:
            row = json_row(line)
            if row is None or not self._take(row, round):
                self.unreadable += bool(line.strip())

    def _take(self, row: dict[str, Any], round: int | None) -> bool:
        step, index, number = row.get("step"), row.get("index"), row.get("round", round)
        if not isinstance(step, str) or not _is_number(index) or not isinstance(number, int):
            return False
        self.rows += 1
        for metric, value in row.items():
            if metric not in KEYS and (value is None or isinstance(value, int | float)):
                self._add(Key(step, metric, number), float(index), _finite(value))
        return True

    def _add(self, key: Key, index: float, value: float) -> None:
        series = self.series.get(key)
        if series is None:
            if len(self.series) >= MAX_SERIES:
                if len(self.refused) < MAX_SERIES:
                    self.refused.add((key.step, key.metric))
                return
            series = self.series[key] = Series()
        series.add(index, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _finite(value: float | None) -> float:
    # The comparison comes first: an integer of 400 digits cannot become a float. NaN compares false.
    return float(value) if value is not None and abs(value) <= LARGEST else math.nan


def read_curves(run: RunFiles) -> Curves:
    """Curves of the run's `metrics.jsonl` and of steps that are not in it because they did not finish."""
    curves = Curves()
    whole = run.folder / "metrics.jsonl"
    if whole.is_file():
        _read_file(curves, whole, None)
    for step in run.steps:
        path = step.folder / "metrics.jsonl"
        if path.is_file() and not (step.finished and whole.is_file()):
            _read_file(curves, path, step.round)
    return curves


def _read_file(curves: Curves, path: Path, round: int | None) -> None:
    with path.open(encoding="utf-8", errors="replace") as lines:
        curves.read(lines, round)
