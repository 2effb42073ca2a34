"""The context that components are built with, without a run around it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alignkit.context import RunInfo, StepContext
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.ops import choose_ops
from alignkit.recipe import ComponentSpec, Recipe, StepSpec


class Rows:
    """A tracker that keeps every row of metrics."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """Nothing to prepare."""

    def log(self, step_id: str, index: int, metrics: Mapping[str, float]) -> None:
        """Keep the row."""
        self.rows.append((index, dict(metrics)))

    def close(self) -> None:
        """Nothing to close."""


def make_context(
    folder: Path = Path(), seed: int = 0, manager: PluginManager | None = None, device: str = "cpu"
) -> StepContext:
    """A step's context with eager ops and one tracker of type `Rows`; `@references` have no meaning in it."""
    manager = manager or PluginManager()
    spec = ComponentSpec(name="none")

    def no_reference(reference: str) -> Path:
        raise UserError(f"{reference} has no meaning here")

    return StepContext(
        manager=manager,
        recipe=Recipe(name="test", policy=spec, steps=(StepSpec(id="one", step="none"),)),
        run=RunInfo("test", folder, seed, 1, {}),
        device=torch.device(device),
        ops=choose_ops(manager, "eager", torch.device(device)),
        resolve_reference=no_reference,
        seed=seed,
        step_id="one",
        folder=folder,
        trackers=(Rows(),),
    )


def metrics_of(context: StepContext) -> list[dict[str, Any]]:
    """The rows that a component logged to a context of `make_context`."""
    (tracker,) = context.trackers
    assert isinstance(tracker, Rows)
    return [metrics for _, metrics in tracker.rows]
