"""The recipe: what a run does, as data. `load_recipe` reads and checks one without running anything."""

from alignkit.recipe.load import load_recipe
from alignkit.recipe.model import ComponentSpec, LastRound, Operational, Recipe, SlotOf, StepSpec

__all__ = ["ComponentSpec", "LastRound", "Operational", "Recipe", "SlotOf", "StepSpec", "load_recipe"]
