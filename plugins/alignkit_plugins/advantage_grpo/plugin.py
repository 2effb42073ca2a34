"""Registers the advantage estimator `grpo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class GRPOConfig(Config):
    """Group relative advantages (Shao et al. 2024, arXiv 2402.03300)."""

    normalise_std: bool = Field(
        True,
        description="divide by the group's deviation; false is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): no bias "
        "towards prompts whose completions score alike",
    )


def build(config: GRPOConfig, context: "BuildContext") -> Any:
    """Make the estimator."""
    from alignkit_plugins.advantage_grpo.estimator import GRPO

    return GRPO(config.normalise_std)


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """Group relative advantages."""
    summary = "score against the mean of the prompt's other samples, by their deviation; no critic (GRPO, Dr. GRPO)"
    return [Component(name="grpo", build=build, config=GRPOConfig, summary=summary)]
