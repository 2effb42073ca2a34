"""Registers the step `collect`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.step_collect.config import CollectConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: CollectConfig, context: "BuildContext") -> Any:
    """Make the step."""
    from alignkit_plugins.step_collect.step import Collect

    return Collect(config)


@hookimpl
def alignkit_steps() -> Iterable[Component]:
    """Collecting feedback."""
    summary = "samples K completions per prompt and has them judged by the reward source"
    tags = frozenset({"keeps_partial"})  # people judge the very completions that were published
    return [Component(name="collect", build=build, config=CollectConfig, summary=summary, tags=tags)]
