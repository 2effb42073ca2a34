"""Registers the kernel components."""

from collections.abc import Iterable
from typing import Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig


def build_chunked(config: NoConfig, context: Any) -> Any:
    """Make the component."""
    from alignkit_kernels.chunked import Chunked

    return Chunked()


@hookimpl
def alignkit_kernels() -> Iterable[Component]:
    """The built-in kernels."""
    summary = (
        "plain torch in chunks of tokens: never holds [tokens, vocabulary] logits, computes them again for gradients"
    )
    return [Component(name="chunked", build=build_chunked, summary=summary)]
