"""Registers the optimizer stage `reinforce`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_reinforce.config import ReinforceConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: ReinforceConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit.training.rollout_stage import RolloutTraining
    from alignkit_plugins.optim_reinforce.objective import ReinforceObjective

    return RolloutTraining(config, ReinforceObjective())


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """REINFORCE."""
    summary = "plain policy gradient, one pass over each batch"
    return [Component(name="reinforce", build=build, config=ReinforceConfig, summary=summary)]
