"""A plugin: the tracker `bench_clock`, with which a step of the measurement ends where a row of metrics arrives."""

from collections.abc import Iterable
from typing import Any

from meter import METER

from alignkit import Component, hookimpl
from alignkit.protocols import Metrics

STEP = "train"  # what the benchmark's recipes call the step that is measured


class ClockTracker:
    """Satisfies `alignkit.protocols.Tracker`."""

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """The first step of the training begins."""
        if step_id == STEP:
            METER.begin()

    def log(self, step_id: str, index: int, metrics: Metrics) -> None:
        """A step is over."""
        if step_id == STEP and index > len(METER.steps):
            METER.step(metrics)

    def close(self) -> None:
        """Nothing to do."""


@hookimpl
def alignkit_trackers() -> Iterable[Component]:
    """The tracker."""

    def build(config: Any, context: Any) -> ClockTracker:
        return ClockTracker()

    return [Component(name="bench_clock", build=build, summary="times steps for a benchmark")]
