"""Options in a dataclass, which validates nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from alignkit import Component, hookimpl


@dataclass
class Options:
    """A pydantic model is what it has to be."""

    scale: float = 1.0


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """Its options could not be checked."""
    return [Component(name="no_model", build=lambda config, context: None, config=Options)]  # type: ignore[arg-type]
