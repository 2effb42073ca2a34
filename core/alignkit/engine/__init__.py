"""Runs a recipe: one folder per step, finished steps are never repeated, everything is recorded."""

from alignkit.engine.run import run_recipe

__all__ = ["run_recipe"]
