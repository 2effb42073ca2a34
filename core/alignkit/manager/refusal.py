"""Why a plugin or a component cannot be used."""

import re
from typing import Any, cast

import pluggy
from pydantic import BaseModel

from alignkit import components
from alignkit.components import RECIPE_WORDS, Component, Kind
from alignkit.errors import did_you_mean
from alignkit.hookspecs import HOOKSPEC_CLASSES, PROJECT_NAME

# Keys a recipe uses itself: a component whose options have such a name could never be given it.
RECIPE_KEYS = {"step": ("name", "id", "step", "each_round")}


class Refusal(ValueError):
    """A plugin that cannot be used, in words that need no name of an exception before them."""


Implementations = list[tuple[pluggy.HookCaller, pluggy.HookImpl]]


def hook_problem(plugin: object, own: Implementations) -> str | None:
    """What pluggy lets pass: misspelled and undecorated hooks, and wrappers, which nothing here would call."""
    every = [n for spec in HOOKSPEC_CLASSES for n in vars(spec) if n.startswith(PROJECT_NAME)]
    for caller, impl in own:
        if caller.spec is None and not impl.optionalhook:
            return f"unknown hook {caller.name}{did_you_mean(caller.name, every)}"
        if impl.wrapper or impl.hookwrapper:
            return f"{caller.name} is a hook wrapper; alignkit calls each implementation by itself"
    for name in every:
        function = getattr(plugin, name, None)
        if callable(function) and not any(impl.function == function for _, impl in own):
            return f"{name} is not decorated with @hookimpl"
    return None if own else "implements no alignkit hook"


def component_problem(kind: Kind, component: object) -> str | None:
    """Why `component` cannot be registered."""
    if not isinstance(component, Component):
        return f"expected alignkit.Component, got {type(component).__name__}"
    if not (isinstance(component.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", component.name)):
        return "a name has letters, digits, dot, _ and - only"
    if component.name in RECIPE_WORDS.get(kind, ()):
        return "the name has a meaning of its own in recipes; choose another"
    if not (isinstance(component.config, type) and issubclass(cast("type", component.config), BaseModel)):
        return "config is not a pydantic model class"
    taken = [key for key in RECIPE_KEYS.get(kind, ("name",)) if key in component.config.model_fields]
    if taken:
        return f"its config has a field {taken[0]!r}, a key that recipes use themselves"
    return _part_problem(component)


def _part_problem(component: Component) -> str | None:
    if not callable(component.build):
        return "build is not callable"
    for part in ("check", "code"):
        if getattr(component, part) is not None and not callable(getattr(component, part)):
            return f"{part} is not callable"
    if not isinstance(component.tags, set | frozenset):
        return "tags is no set"
    texts = [part for part in ("summary", "deprecated") if not isinstance(getattr(component, part), str)]
    return f"{texts[0]} is not text" if texts else None


def api_problem(api: Any) -> str | None:
    """Why this alignkit cannot work with a component made for `api`."""
    newest, oldest = components.API_VERSION, components.OLDEST_API
    if isinstance(api, int) and oldest <= api <= newest:
        return None
    range_ = f"api {newest}" if newest == oldest else f"api {oldest} to {newest}"
    return f"made for api {api}, this alignkit has {range_}"


def config_problem(config: type[BaseModel]) -> str | None:
    """Why options could never be validated: pydantic makes the validator of a `Config` late."""
    try:
        config.model_rebuild()
    except Exception as error:
        return f"its config cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None
