"""Registers the tracker `progress`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit_plugins.tracker_progress.tracker import ProgressTracker


class ProgressConfig(Config):
    """Options of the tracker `progress`."""

    seconds: float = Field(10.0, ge=0, description="least time between two lines when stderr is no terminal")
    metrics: tuple[str, ...] = Field(
        ("loss", "accuracy", "reward", "true_reward", "kl"),
        description="metrics to show, in this order; a step that has none of them shows its first ones",
    )


def build(config: ProgressConfig, context: "BuildContext") -> "ProgressTracker":
    """A tracker on stderr."""
    from alignkit_plugins.tracker_progress.tracker import ProgressTracker

    return ProgressTracker(config)


@hookimpl
def alignkit_trackers() -> Iterable[Component]:
    """The tracker `progress`."""
    summary = "shows a progress bar on stderr, or plain lines when stderr is no terminal"
    return [
        Component(name="progress", build=build, config=ProgressConfig, summary=summary, tags=frozenset({"default"}))
    ]
