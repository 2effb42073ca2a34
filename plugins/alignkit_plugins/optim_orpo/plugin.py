"""Registers the optimizer stage `orpo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_orpo.config import ORPOConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: ORPOConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit.training.pair_stage import PairTraining
    from alignkit_plugins.optim_orpo.objective import ORPOObjective

    return PairTraining(config, ORPOObjective(config))


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Odds ratio preference optimization."""
    summary = "odds ratio preference optimization: supervised fine-tuning and preferences at once, no reference"
    return [Component(name="orpo", build=build, config=ORPOConfig, summary=summary)]
