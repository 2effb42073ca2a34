"""Registers the optimizer stage `kto`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.optim_kto.config import KTOConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext


def build(config: KTOConfig, context: "BuildContext") -> Any:
    """Make the stage."""
    from alignkit_plugins.optim_kto.stage import KTO

    return KTO(config)


@hookimpl
def alignkit_optimizer_stages() -> Iterable[Component]:
    """Kahneman-Tversky optimization."""
    summary = "Kahneman-Tversky optimization from completions labelled good or bad, or from preference pairs"
    return [Component(name="kto", build=build, config=KTOConfig, summary=summary)]
