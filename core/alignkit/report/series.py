"""Metrics as curves, read row by row into a bounded number of points.

A series keeps at most `POINTS` buckets. When they are full, neighbours are merged and later buckets hold
twice as many rows: memory stays the same for a thousand rows and for a million, and means, lowest and highest
values are exact for the rows of each bucket.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from alignkit.report.read import RunFiles, json_row

POINTS = 300
MAX_SERIES = 2000
WAITING = 1024
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
            self.rows + other.rows,
            self.index_sum + other.index_sum,
            self.finite + other.finite,
            self.value_sum + other.value_sum,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def at(self) -> float:
        """Mean index."""
        return self.index_sum / self.rows

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN (a gap in the curve) if there is none."""
        return self.value_sum / self.finite if self.finite else math.nan


class Series:
    """One curve; `width` is the number of rows per bucket."""

    def __init__(self) -> None:
        self.width = 1
        self._ends: tuple[float, float] | None = None
        self._buckets: list[Bucket] = []
        # Rows wait here for one pass of sum, min and max over many: several times faster than one by one.
        self._at: list[float] = []
        self._values: list[float] = []

    def add(self, index: float, value: float) -> None:
        """One row; NaN makes a gap."""
        self._at.append(index)
        self._values.append(value)
        if len(self._values) >= self.width or len(self._values) == WAITING:
            self._settle()

    @property
    def buckets(self) -> list[Bucket]:
        """The points of the curve, in order."""
        self._settle()
        return self._buckets

    @property
    def ends(self) -> tuple[float, float] | None:
        """First and last finite value, None if there is none and nothing to draw."""
        self._settle()
        return self._ends

    @property
    def dropped(self) -> int:
        """How many values are not finite."""
        return sum(bucket.rows - bucket.finite for bucket in self.buckets)

    def _settle(self) -> None:
        if not self._values:
            return
        finite = [value for value in self._values if value == value]
        low, high = min(finite, default=math.inf), max(finite, default=-math.inf)
        new = Bucket(len(self._values), sum(self._at), len(finite), sum(finite), low, high)
        if finite:
            self._ends = (self._ends[0] if self._ends else finite[0], finite[-1])
        self._at.clear()
        self._values.clear()
        if self._buckets and self._buckets[-1].rows + new.rows <= self.width:
            self._buckets[-1] = self._buckets[-1].merged(new)
        else:
            self._buckets.append(new)
        if len(self._buckets) > POINTS:
            pairs = zip(self._buckets[:-1:2], self._buckets[1::2], strict=True)
            self._buckets = [*(a.merged(b) for a, b in pairs), self._buckets[-1]]
            self.width *= 2


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
                self._add(Key(step, metric, number), _finite(index), _finite(value))
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
    return math.nan if value is None or not abs(value) <= LARGEST else float(value)


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
