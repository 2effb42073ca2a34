"""benchmarks/compare: the arithmetic between measured processes and the table."""

from typing import Any

import pytest

from helpers.comparing import compare_module

table: Any = compare_module("table")


def step(seconds: float, logged: float, /, **parts: float) -> dict[str, Any]:
    halves = {name: value / 2 for name, value in parts.items()}
    times = {"seconds": seconds, "cpu_seconds": seconds / 2, "parts": parts, "cpu_parts": halves}
    return {**times, "figures": {"loss": logged}}


def report(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"steps": list(steps), "whole_seconds": [10.0, 5.0], "modules_mb": 400.0, "peak_mb": 1000.0}


def test_a_rate_is_the_median_behind_the_warm_up() -> None:
    found = table.measured(report(step(9, 3), step(1, 2), step(2, 1.5), step(4, 1)), [900, 100, 100, 100], 1, False)
    assert found.rate == 50  # of 100, 50 and 25; the slow first step is not among them
    assert found.cpu_rate == 100
    assert (found.losses[0], found.losses[-1]) == (3, 1)
    assert found.above_modules_mb == 600


def test_a_whole_training_counts_what_precedes_its_first_step() -> None:
    found = table.measured(report(step(2, 3), step(2, 1)), [600, 400], 1, True)
    assert (found.rate, found.cpu_rate) == (100, 200)


def test_overhead_is_what_is_no_work_of_the_model() -> None:
    steps = report(step(9, 1), step(10, 1, forward=3, loss=1, backward=4, optimizer=1, update=0.5))
    found = table.measured(steps, [1, 1], 1, False)
    assert found.overhead == pytest.approx(0.1)  # `update` is what the update adds by itself
    assert table.profile([found])["other"] == pytest.approx(0.25)  # of the processor's seconds, half of the clock's


def test_another_number_of_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 steps were measured and 2 planned"):
        table.measured(report(step(1, 1)), [1, 1], 0, False)


def test_a_ratio_is_one_of_medians_and_shows_its_range() -> None:
    row = table.row("sft", "tokens/s", [30.0, 10.0, 20.0], [10.0, 10.0, 5.0], "default", ">= 1.6")
    assert (row["ours"], row["peer"], row["ratio"], row["range"], row["met"]) == (20, 10, 2, [1, 4], True)


def test_without_a_peer_the_figure_itself_is_judged() -> None:
    row = table.row("sft", "engine overhead", [0.06], [], "", "< 0.05")
    assert (row["ratio"], row["met"]) == (None, False)


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (1.6, ">= 1.6", True), (1.59, ">= 1.6", False), (0.8, "<= 0.8", True), (0.81, "<= 0.8", False),
        (0.05, "< 0.05", False), (0.985, "1 ± 0.02", True), (1.021, "1 ± 0.02", False),
    ],
)  # fmt: skip
def test_targets(value: float, target: str, met: bool) -> None:
    assert table.met(value, target) is met


def test_an_unknown_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="no target"):
        table.met(1.0, "fast")


def test_parts_of_a_step_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    meter: Any = compare_module("meter")
    now = [0.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    clock = meter.Clock()

    def work(seconds: float) -> None:
        now[0] += seconds

    with clock.span("rollout"):
        work(1)
        with clock.span("forward"):  # a sampler's pass belongs to sampling
            work(2)
    work(100)  # in no part
    with clock.span("update"):
        work(4)
        with clock.span("loss"):
            work(8)
            with clock.span("forward"):
                work(16)
        work(32)
    assert clock.taken()["parts"] == {"rollout": 3, "update": 36, "loss": 8, "forward": 16}
    assert clock.taken()["parts"] == {}
