"""The recipe: what a run does, as data. `load_recipe` reads and checks one without running anything."""

from typing import TYPE_CHECKING, Any

from alignkit.recipe.model import ComponentSpec, LastRound, Operational, Recipe, SlotOf, StepSpec

if TYPE_CHECKING:
    from alignkit.recipe.load import load_recipe

__all__ = ["ComponentSpec", "LastRound", "Operational", "Recipe", "SlotOf", "StepSpec", "load_recipe"]


def __getattr__(name: str) -> Any:
    # Late, because plugins take the markers of options from here, and every command imports every plugin.
    if name == "load_recipe":
        from alignkit.recipe.load import load_recipe

        return load_recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
