"""Plugins and the components that a run uses, for its record."""

from pathlib import Path
from typing import Any

from alignkit.engine.identity import component_versions, kernel_version
from alignkit.manager import PluginManager
from alignkit.manager.registered import PluginStatus
from alignkit.recipe.check import chosen_trackers
from alignkit.recipe.model import Recipe


def plugin_record(recipe: Recipe, manager: PluginManager) -> dict[str, Any]:
    """Every plugin with its version, which were left out and why, and the owner's version of each component used."""
    return {
        "plugins": [_row(plugin) for plugin in manager.plugins],
        "left_out": dict(manager.left_out),
        "components": used_components(recipe, manager),
    }


def used_components(recipe: Recipe, manager: PluginManager) -> dict[str, str]:
    """`KIND:DISTRIBUTION:NAME` -> version, of everything that the recipe names."""
    used = component_versions(manager, "policy", recipe.policy)
    for step in recipe.steps:
        used |= component_versions(manager, "step", step.component)
    for tracker in chosen_trackers(recipe, manager):
        used |= component_versions(manager, "tracker", tracker)
    used |= kernel_version(manager, recipe.kernels)
    return dict(sorted(used.items()))


def _row(plugin: PluginStatus) -> dict[str, Any]:
    # A local plugin's version is the hash of its content; of its place the record keeps the last part.
    source = Path(plugin.source).name if plugin.kind == "file" else plugin.source
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "problem": plugin.problem,
        "source": {"kind": plugin.kind, "value": source},
    }
