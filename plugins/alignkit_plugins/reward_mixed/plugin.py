"""Registers the reward source `mixed`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit_plugins.reward_mixed.config import MixedConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.manager import PluginManager
    from alignkit_plugins.reward_mixed.source import MixedSource


def build(config: MixedConfig, context: "BuildContext") -> "MixedSource":
    """Build both sources."""
    from alignkit_plugins.reward_mixed.source import build_mixed

    return build_mixed(config, context)


def check(config: MixedConfig, manager: "PluginManager") -> None:
    """The first must compare pairs."""
    from alignkit_plugins.reward_mixed.source import check_first

    check_first(config, manager)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """AI first, people where it is unsure."""
    summary = "one source judges, another (people) where the first is unsure or gave no answer"
    return [Component("mixed", build, MixedConfig, summary, check=check)]
