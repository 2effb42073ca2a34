"""Registers the optimizer stage `reward_model`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_reward_model.config import RewardModelConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: RewardModelConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit_plugins.optim_reward_model.stage import RewardModelStage

    return RewardModelStage(config)


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """The Bradley-Terry reward model."""
    summary = "Bradley-Terry reward model from preference pairs and rankings"
    return [Component(name="reward_model", build=build, config=RewardModelConfig, summary=summary)]
