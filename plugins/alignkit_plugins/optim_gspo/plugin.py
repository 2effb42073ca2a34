"""Registers the optimizer stage `gspo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_gspo.config import GSPOConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: GSPOConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit.training.rollout_stage import RolloutTraining
    from alignkit_plugins.optim_gspo.objective import GSPOObjective

    return RolloutTraining(config, GSPOObjective(config))


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Group sequence policy optimization."""
    summary = "group sequence policy optimization: one ratio for a whole completion, clipped"
    return [Component(name="gspo", build=build, config=GSPOConfig, summary=summary)]
