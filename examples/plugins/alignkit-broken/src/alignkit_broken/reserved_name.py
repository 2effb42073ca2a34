"""Takes the name of a built-in component."""

from collections.abc import Iterable

from alignkit import Component, hookimpl


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """`gae` is alignkit's own."""
    return [Component(name="gae", build=lambda config, context: None)]
