"""Registers the tracker `jsonl`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit.components import NoConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit_plugins.tracker_jsonl.tracker import JsonlTracker


def build(config: NoConfig, context: "BuildContext") -> "JsonlTracker":
    """A tracker for the folder of `context`'s step."""
    from alignkit.context import StepContext
    from alignkit_plugins.tracker_jsonl.tracker import JsonlTracker

    assert isinstance(context, StepContext)
    return JsonlTracker(context.folder)


@hookimpl
def alignkit_trackers() -> Iterable[Component]:
    """The tracker `jsonl`."""
    summary = "writes metrics.jsonl into the step's folder, one row per call"
    return [Component(name="jsonl", build=build, config=NoConfig, summary=summary, tags=frozenset({"default"}))]
