"""Registers the reward source `simulated`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.recipe import ComponentSpec, SlotOf

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class SimulatedConfig(Config):
    """Simulated annotators who rank by a known reward with noise. Nothing they say is human feedback."""

    utility: Annotated[ComponentSpec, SlotOf("reward_source")] = Field(
        ComponentSpec(name="film_taste"), description="the true reward, known in a simulation"
    )
    annotators: int = Field(3, ge=1, description="how many different annotators there are")
    noise: float = Field(
        0.7, ge=0, description="scale of the Gumbel noise on each utility: 1 gives Bradley-Terry choices"
    )
    bias: float = Field(0.3, ge=0, description="standard deviation of each annotator's own liking for length")
    skip_rate: float = Field(0.02, ge=0, lt=1, description="share of tasks an annotator skips")


def build(config: SimulatedConfig, context: "BuildContext") -> Any:
    """Make the annotators."""
    from alignkit_plugins.reward_simulated.source import SimulatedAnnotators

    return SimulatedAnnotators(config, context.build("reward_source", config.utility), context.seed)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """Simulated feedback."""
    summary = "simulated annotators who rank by a known reward, with noise and habits"
    return [Component(name="simulated", build=build, config=SimulatedConfig, summary=summary)]
