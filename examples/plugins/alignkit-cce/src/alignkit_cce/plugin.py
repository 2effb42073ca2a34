"""Registers the kernel component `cce`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig

if TYPE_CHECKING:
    from .cce import CutCrossEntropy


def build(config: NoConfig, context: Any) -> "CutCrossEntropy":
    """Make the component."""
    from .cce import CutCrossEntropy

    return CutCrossEntropy()


@hookimpl
def alignkit_kernels() -> Iterable[Component]:
    """Cut cross-entropy."""
    summary = "log-probs by the library cut-cross-entropy; eager for entropies, a bias and left-out ids"
    return [Component(name="cce", build=build, summary=summary, api=1)]
