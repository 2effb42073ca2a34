"""Registers the optimizer stage `dpo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_dpo.config import DPOConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: DPOConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit.training.pair_stage import PairTraining
    from alignkit_plugins.optim_dpo.objective import DPOObjective

    return PairTraining(config, DPOObjective(config))


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Direct preference optimization."""
    summary = "direct preference optimization from preference pairs and rankings (sigmoid, IPO or hinge loss)"
    return [Component(name="dpo", build=build, config=DPOConfig, summary=summary)]
