"""Registers the optimizer stage `ppo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_ppo.config import PPOConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: PPOConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit.training.rollout_stage import RolloutTraining
    from alignkit_plugins.optim_ppo.objective import PPOObjective

    return RolloutTraining(config, PPOObjective(config))


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Proximal policy optimization."""
    summary = "proximal policy optimization: clipped policy and value loss on rollouts"
    return [Component(name="ppo", build=build, config=PPOConfig, summary=summary)]
