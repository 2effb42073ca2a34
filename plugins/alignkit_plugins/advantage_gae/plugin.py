"""Registers the advantage estimator `gae`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.loop.config import WhitenedAdvantageConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class GAEConfig(WhitenedAdvantageConfig):
    """Generalised advantage estimation."""

    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda: 0 is one-step TD, 1 is Monte Carlo")


def build(config: GAEConfig, context: "BuildContext") -> Any:
    """Make the estimator."""
    from alignkit_plugins.advantage_gae.estimator import GAE

    return GAE(config.gamma, config.lam, context.ops, config.whitening)


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """The built-in estimator."""
    summary = "generalised advantage estimation with a critic (Schulman et al. 2016)"
    return [Component(name="gae", build=build, config=GAEConfig, summary=summary)]
