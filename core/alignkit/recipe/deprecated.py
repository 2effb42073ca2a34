"""Warnings about what a recipe uses and a later version will not have."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from alignkit.errors import AlignkitDeprecationWarning
from alignkit.manager import Registered
from alignkit.recipe.source import KeyPath, Lines


def warn_of_deprecated(registered: Registered, options: Mapping[str, Any], lines: Lines, path: KeyPath) -> None:
    """An AlignkitDeprecationWarning for a deprecated component, and for each deprecated option that is given."""
    instead = registered.component.deprecated
    if instead:
        _warn(lines.at((*path, "name")), f"{registered.described} is deprecated: {instead}")
    for key, message in deprecated_options(registered.component.config, options):
        dotted = ".".join(map(str, key))
        _warn(lines.at((*path, *key)), f"{registered.described}: the option {dotted} is deprecated: {message}")


def deprecated_options(
    model: type[BaseModel], options: Mapping[str, Any], path: KeyPath = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Path and message of every option that is given and marked `Field(deprecated=…)`, in models inside too."""
    for name, field in model.model_fields.items():
        if name not in options:
            continue
        if field.deprecated:
            yield (*path, name), field.deprecation_message or "it will be removed"
        value = options[name]
        places = enumerate(value) if isinstance(value, list) else [(None, value)]
        for place, inside in places:
            where: KeyPath = (*path, name) if place is None else (*path, name, place)
            for inner in inner_models(field.annotation) if isinstance(inside, Mapping) else ():
                yield from deprecated_options(inner, inside, where)


def inner_models(annotation: Any) -> list[type[BaseModel]]:
    """Models that a field's annotation holds: itself, in a union, in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in inner_models(argument)]


def _warn(where: str, message: str) -> None:
    warnings.warn(f"{where}: {message}", AlignkitDeprecationWarning, stacklevel=2)
