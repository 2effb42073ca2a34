"""Registers the advantage estimator `remax`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: NoConfig, context: "BuildContext") -> Any:
    """Make the estimator."""
    from alignkit_plugins.advantage_remax.estimator import ReMax

    return ReMax()


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """ReMax."""
    summary = "score against that of the prompt's greedy completion; no critic (ReMax)"
    return [Component(name="remax", build=build, summary=summary)]
