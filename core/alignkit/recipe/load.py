"""From a recipe's name or file and the command line's overrides to a checked `Recipe`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from alignkit.code import require_allowed
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.manager.installed import normal
from alignkit.manager.local import LOCAL_DISTRIBUTION, home_filled_in
from alignkit.recipe.check import check_recipe, chosen_trackers, validated
from alignkit.recipe.model import Recipe
from alignkit.recipe.overrides import apply_overrides, substitute
from alignkit.recipe.source import Lines, read_yaml
from alignkit.recipe.texts import require_plain_texts


@dataclass(frozen=True)
class Loaded:
    """A checked recipe with the plugins it was checked against."""

    recipe: Recipe
    manager: PluginManager
    lines: Lines


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name: from the wheel, or beside `core/` in a source tree."""
    package = Path(str(files("alignkit")))
    for folder in (package / "_recipes", package.parent.parent / "recipes"):
        if folder.is_dir():
            return {p.stem: p for p in sorted(folder.glob("*.yaml"))}
    return {}


def recipe_path(name: str) -> Path:
    """`quickstart` is a shipped recipe, anything with a suffix or a slash is a file."""
    shipped = shipped_recipes()
    if name in shipped and not Path(name).is_file():
        return shipped[name]
    path = Path(name)
    if not path.is_file():
        raise UserError("no such recipe", where=name, hint=f"give a file, or one of: {', '.join(shipped)}")
    return path


def load_recipe(
    name: str,
    overrides: Sequence[str] = (),
    manager: PluginManager | None = None,
    *,
    allow_code: frozenset[str] = frozenset(),
    plugin_folders: Sequence[Path] = (),
    strict_plugins: bool = False,
    checked: bool = True,
) -> Loaded:
    """Read, override, substitute and check. Raises UserError; touches nothing on disk.

    `allow_code` names the plugin files of the recipe that may be loaded; `plugin_folders` hold plugins that are not
    installed; with `strict_plugins` (also ALIGNKIT_STRICT_PLUGINS) any plugin that fails is an error. A `manager` that
    is given has its plugins already.
    """
    path = recipe_path(name)
    raw, lines = read_yaml(path)
    data: dict[str, Any] = apply_overrides(raw, overrides, lines)
    require_plain_texts(data, lines)
    variables = data.get("vars") or {}
    shadowing = sorted(set(variables) & set(Recipe.model_fields))
    if shadowing:
        raise UserError(
            f"the variable {shadowing[0]!r} has the name of a key of the recipe",
            where=lines.at(("vars", shadowing[0])),
            hint="rename it: on the command line the key would win",
        )
    body = {k: substitute(v, variables, lines, (k,)) for k, v in data.items() if k != "vars"}
    recipe = validated(Recipe, {**body, "vars": variables}, lines)
    if "ALIGNKIT_KERNELS" in os.environ:  # put into the recipe, so that the run's record says so
        recipe = recipe.model_copy(update={"kernels": os.environ["ALIGNKIT_KERNELS"]})
    if manager is None:
        manager = PluginManager()
        manager.load(recipe.plugins.disable, plugin_folders)
    _load_files(recipe, path.parent, manager, lines, allow_code)
    if strict_plugins or recipe.plugins.strict or manager.strict_by_environment():
        manager.require_all(lines.at(("plugins",)))
    # put into the recipe, so that the run's record says which
    recipe = recipe.model_copy(update={"trackers": tuple(chosen_trackers(recipe, manager))})
    if checked:
        check_recipe(recipe, manager, lines)
    return Loaded(recipe, manager, lines)


def _load_files(recipe: Recipe, folder: Path, manager: PluginManager, lines: Lines, allowed: frozenset[str]) -> None:
    """Load the recipe's own plugin files. As the recipe names them, one that fails is an error."""
    for i, name in enumerate(recipe.plugins.files):
        where = lines.at(("plugins", "files", i))
        file = folder / home_filled_in(Path(name))
        if file.suffix != ".py":
            raise UserError(f"{name} is no Python file", where=where, hint="a folder of plugins: --plugins-dir DIR")
        if not file.is_file():
            raise UserError(f"no such file: {name}", where=where, hint=f"paths are relative to the recipe: {folder}")
        require_allowed(name, allowed & {name}, where)  # `rewards` alone would else allow `rewards:x.py` too
        if {LOCAL_DISTRIBUTION, normal(file.stem)} & {normal(n) for n in recipe.plugins.disable}:
            raise UserError(f"the recipe names {name} and disables it", where=where, hint="take out one of the two")
        status = manager.load_file(file)
        if status.problem:
            raise UserError(f"the plugin {name} cannot be used: {status.problem}", where=where)
