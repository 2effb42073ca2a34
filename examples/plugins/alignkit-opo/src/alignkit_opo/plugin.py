"""Registers the advantage estimator `opo`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit.components import NoConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext

    from .opo import OPO


def build(config: NoConfig, context: "BuildContext") -> "OPO":
    """Make the estimator."""
    from .opo import OPO

    return OPO()


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """The optimal reward baseline."""
    summary = "score against the length-weighted mean of the prompt's samples; no critic (OPO)"
    return [Component(name="opo", build=build, summary=summary, api=1)]
