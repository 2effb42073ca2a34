"""Offers two components of one name."""

from collections.abc import Iterable

from alignkit import Component, hookimpl


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """Which one would a recipe mean?"""
    return [Component(name="twice", build=lambda config, context: None) for _ in range(2)]
