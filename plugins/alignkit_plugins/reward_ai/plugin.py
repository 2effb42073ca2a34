"""Registers the reward source `ai`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit_plugins.reward_ai.config import AIConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.manager import PluginManager
    from alignkit_plugins.reward_ai.rating import RatingSource
    from alignkit_plugins.reward_ai.source import PairwiseSource


def build(config: AIConfig, context: "BuildContext") -> "PairwiseSource | RatingSource":
    """Make the judge; a local model is loaded."""
    from alignkit_plugins.reward_ai.build import build_source

    return build_source(config, context)


def check(config: AIConfig, manager: "PluginManager") -> None:
    """Template, constitution and a local model's folder must be there, and the key's variable set."""
    from alignkit_plugins.reward_ai.build import check_config

    check_config(config)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """AI feedback."""
    summary = "a language model judges, in this process or behind a server: pairs in both orders, or expected ratings"
    return [Component("ai", build, AIConfig, summary, check=check)]
