"""A bounded number of points keeps means, extremes and trend of any number of rows."""

import math
import random

import pytest

from alignkit.report.series import POINTS, Series


def filled(values: list[float]) -> Series:
    series = Series()
    for index, value in enumerate(values):
        series.add(float(index), value)
    return series


@pytest.mark.parametrize("count", [1, 2, POINTS - 1, POINTS])
def test_few_rows_are_kept_as_they_are(count: int) -> None:
    values = [math.sin(i) for i in range(count)]
    series = filled(values)
    assert series.width == 1
    assert [b.mean for b in series.buckets] == values
    assert [b.at for b in series.buckets] == [float(i) for i in range(count)]


@pytest.mark.parametrize("count", [POINTS + 1, 2 * POINTS + 7, 1023, 100_001, 1_000_000])
def test_thinning_keeps_every_row_and_the_extremes(count: int) -> None:
    draw = random.Random(count)
    values = [3.0 - 2.0 * i / count + draw.uniform(-0.5, 0.5) for i in range(count)]
    peak, dip = count // 3, 2 * count // 3
    values[peak], values[dip] = 50.0, -50.0
    series = filled(values)
    buckets = series.buckets
    assert POINTS // 2 <= len(buckets) <= POINTS
    assert sum(b.rows for b in buckets) == count
    assert sum(b.value_sum for b in buckets) == pytest.approx(sum(values))
    assert max(b.high for b in buckets) == 50.0
    assert min(b.low for b in buckets) == -50.0
    for extreme, where in ((50.0, peak), (-50.0, dip)):
        bucket = next(b for b in buckets if extreme in (b.high, b.low))
        assert abs(bucket.at - where) <= series.width
    assert series.ends == (values[0], values[-1])


def test_thinning_keeps_the_trend() -> None:
    series = filled([1.0 - i / 200_000 for i in range(200_000)])
    means = [b.mean for b in series.buckets]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(1.0, abs=0.01)
    assert means[-1] == pytest.approx(0.0, abs=0.01)


def test_gaps_do_not_spoil_means() -> None:
    values = [math.nan if i % 3 else 2.0 for i in range(10 * POINTS)]
    series = filled(values)
    assert series.dropped == sum(map(math.isnan, values))
    assert {b.mean for b in series.buckets} == {2.0}
    assert {(b.low, b.high) for b in series.buckets} == {(2.0, 2.0)}


def test_a_stretch_without_finite_values_is_a_gap() -> None:
    series = filled([1.0] * 1000 + [math.nan] * 1000 + [1.0] * 1000)
    means = [b.mean for b in series.buckets]
    assert any(map(math.isnan, means))
    assert means[0] == means[-1] == 1.0


def test_nothing_finite_is_not_drawable() -> None:
    assert filled([math.nan, math.nan]).ends is None
    assert Series().ends is None
    assert filled([math.nan, 0.0]).ends == (0.0, 0.0)
