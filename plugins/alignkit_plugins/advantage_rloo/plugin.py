"""Registers the advantage estimator `rloo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: NoConfig, context: "BuildContext") -> Any:
    """Make the estimator."""
    from alignkit_plugins.advantage_rloo.estimator import RLOO

    return RLOO()


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """REINFORCE leave-one-out."""
    summary = "score against the mean of the prompt's other samples; no critic (REINFORCE leave-one-out)"
    return [Component(name="rloo", build=build, summary=summary)]
