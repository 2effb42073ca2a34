"""Registers the step `align`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.step_align.config import AlignConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: AlignConfig, context: "BuildContext") -> Any:
    """Make the step."""
    from alignkit_plugins.step_align.step import Align

    return Align(config)


@hookimpl
def alignkit_steps() -> Iterable[Component]:
    """The loop."""
    summary = "the alignment loop: roll out, reward, advantage, optimize"
    return [Component(name="align", build=build, config=AlignConfig, summary=summary)]
