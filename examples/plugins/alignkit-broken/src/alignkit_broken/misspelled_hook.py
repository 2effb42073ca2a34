"""The hook is called `alignkit_advantages`."""

from collections.abc import Iterable

from alignkit import Component, hookimpl


@hookimpl
def alignkit_advantage() -> Iterable[Component]:
    """Nobody would call it."""
    return [Component(name="misspelled", build=lambda config, context: None)]
