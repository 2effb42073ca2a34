"""Registers the optimizer stage `sft`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_sft.config import SFTConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: SFTConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit_plugins.optim_sft.stage import SFT

    return SFT(config)


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Supervised fine-tuning."""
    summary = "supervised fine-tuning on demonstrations, loss on the completion only"
    return [Component(name="sft", build=build, config=SFTConfig, summary=summary)]
