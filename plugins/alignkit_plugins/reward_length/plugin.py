"""Registers the reward sources `length` and `overlong`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit_plugins.reward_length.config import LengthConfig, OverlongConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit_plugins.reward_length.source import Length, Overlong


def build_length(config: LengthConfig, context: "BuildContext") -> "Length":
    """Make the penalty."""
    from alignkit_plugins.reward_length.source import Length

    return Length(config.coef, config.target)


def build_overlong(config: OverlongConfig, context: "BuildContext") -> "Overlong":
    """Make the punishment."""
    from alignkit_plugins.reward_length.source import Overlong

    return Overlong(config.max_length, config.cache)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """Rules about length, to be added to other rewards with `weighted`."""
    return [
        Component("length", build_length, LengthConfig, "a penalty per token, or per token beyond a target"),
        Component("overlong", build_overlong, OverlongConfig, "DAPO's soft punishment of overlong completions"),
    ]
