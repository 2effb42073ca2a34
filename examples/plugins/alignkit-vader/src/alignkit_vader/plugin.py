"""Registers the reward source `vader`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from alignkit import Component, hookimpl
from alignkit.components import Config
from pydantic import Field

if TYPE_CHECKING:
    from alignkit.context import BuildContext

    from .vader import Vader


class VaderConfig(Config):
    """The sentiment of completions by VADER's lexicon and rules (Hutto & Gilbert 2014)."""

    target: Literal["positive", "negative"] = Field("positive", description="which sentiment scores high")


def build(config: VaderConfig, context: "BuildContext") -> "Vader":
    """Make the source."""
    from .vader import Vader

    return Vader(config.target)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """VADER."""
    summary = "sentiment in [-1, 1] by a lexicon and rules; scores and ranks (VADER, English)"
    return [Component(name="vader", build=build, config=VaderConfig, summary=summary, api=1)]
