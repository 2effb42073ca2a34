"""Registers the optimizer stage `pretrain`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: PretrainConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit_plugins.optim_pretrain.stage import Pretrain

    return Pretrain(config)


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Language-model pretraining."""
    summary = "next-token prediction on plain texts, packed into blocks"
    return [Component(name="pretrain", build=build, config=PretrainConfig, summary=summary)]
