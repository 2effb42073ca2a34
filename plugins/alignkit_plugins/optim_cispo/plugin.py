"""Registers the optimizer stage `cispo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_cispo.config import CISPOConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: CISPOConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit.training.rollout_stage import RolloutTraining
    from alignkit_plugins.optim_cispo.objective import CISPOObjective

    return RolloutTraining(config, CISPOObjective(config))


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Clipped IS-weight policy optimization."""
    summary = "clipped importance-sampling weights: every token keeps its gradient"
    return [Component(name="cispo", build=build, config=CISPOConfig, summary=summary)]
