"""Registers the advantage estimator `reinforce_pp`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.loop.config import WhitenedAdvantageConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class ReinforcePPConfig(WhitenedAdvantageConfig):
    """REINFORCE++ (Hu 2025, arXiv 2501.03262)."""

    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    baseline: bool = Field(
        False, description="subtract the mean of the prompt's samples first (REINFORCE++-baseline); needs several"
    )


def build(config: ReinforcePPConfig, context: "BuildContext") -> Any:
    """Make the estimator."""
    from alignkit_plugins.advantage_reinforce_pp.estimator import ReinforcePP

    return ReinforcePP(config.gamma, config.baseline, config.whitening)


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """REINFORCE++."""
    summary = "rewards to come, whitened over the batch; no critic (REINFORCE++)"
    return [Component(name="reinforce_pp", build=build, config=ReinforcePPConfig, summary=summary)]
