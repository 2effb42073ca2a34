"""The hook has no argument `registry`."""

from collections.abc import Iterable

from alignkit import Component, hookimpl


@hookimpl
def alignkit_advantages(registry: object) -> Iterable[Component]:
    """Nobody would give it one."""
    return [Component(name="wrong_argument", build=lambda config, context: registry)]
