"""Registers the reward source `reward_model`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.manager import PluginManager


class RewardModelSourceConfig(Config):
    """Scores from a trained reward model."""

    model: str = Field(description="@step, folder or hub name of a one-label sequence classifier")
    max_tokens: int = Field(16384, ge=1, description="padded tokens per forward pass; changes memory and speed only")


def build(config: RewardModelSourceConfig, context: "BuildContext") -> Any:
    """Load the model."""
    from alignkit_plugins.reward_reward_model.source import load_source

    return load_source(config.model, config.max_tokens, context)


def check(config: RewardModelSourceConfig, manager: "PluginManager") -> None:
    """The folder must be a complete model."""
    from alignkit.modeling.folders import check_model_path

    check_model_path(config.model)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """The learned reward."""
    summary = "scores completions with a trained reward model"
    config = RewardModelSourceConfig
    return [Component(name="reward_model", build=build, config=config, check=check, summary=summary)]
