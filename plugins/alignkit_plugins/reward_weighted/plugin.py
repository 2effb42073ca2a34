"""Registers the reward source `weighted`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit_plugins.reward_weighted.config import WeightedConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit_plugins.reward_weighted.source import WeightedSum


def build(config: WeightedConfig, context: "BuildContext") -> "WeightedSum":
    """Build the sources and add them up."""
    from alignkit_plugins.reward_weighted.source import build_sum

    return build_sum(config, context)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """Composition of rewards."""
    return [Component("weighted", build, WeightedConfig, "weighted sum of other reward sources' scores")]
