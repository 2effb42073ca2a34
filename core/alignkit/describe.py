"""What a component is and takes, read from its registration and its pydantic model."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alignkit.components import KINDS, Kind
from alignkit.errors import UserError, did_you_mean, said_by
from alignkit.manager import PluginManager, Registered
from alignkit.recipe.deprecated import inner_models
from alignkit.recipe.model import ComponentSpec, SlotOf

# Attributes of the markers that pydantic keeps for a field's bounds, as mathematics writes them.
BOUNDS = {
    "ge": ">= {}",
    "gt": "> {}",
    "le": "<= {}",
    "lt": "< {}",
    "multiple_of": "multiple of {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "pattern": "matches {}",
}


@dataclass(frozen=True)
class Option:
    """One field of a component's config; `options` are those of a model inside it."""

    name: str
    type: str
    required: bool
    default: Any
    description: str
    range: str
    deprecated: str
    options: tuple["Option", ...] = ()


def options_of(config: type[BaseModel], around: tuple[type[BaseModel], ...] = ()) -> tuple[Option, ...]:
    """Every option in the order of the model. A model that holds itself (`around`) is not unfolded again."""
    return tuple(_option(name, field, (*around, config)) for name, field in config.model_fields.items())


def walk(options: tuple[Option, ...], prefix: str = "") -> Iterator[tuple[str, Option]]:
    """Dotted name and option, models inside included."""
    for option in options:
        yield prefix + option.name, option
        yield from walk(option.options, f"{prefix}{option.name}.")


def _option(name: str, field: FieldInfo, around: tuple[type[BaseModel], ...]) -> Option:
    required = field.is_required()
    slot = next((m.kind for m in field.metadata if isinstance(m, SlotOf)), None)
    inner = [m for m in inner_models(field.annotation) if m not in (ComponentSpec, *around)]
    return Option(
        name,
        type_name(field.annotation, slot),
        required,
        None if required else _default(field),
        field.description or "",
        ", ".join(_bounds(field)),
        (field.deprecation_message or "it will be removed") if field.deprecated else "",
        tuple(option for model in inner for option in options_of(model, around)),
    )


def _default(field: FieldInfo) -> Any:
    if field.default_factory_takes_validated_data:
        return "depends on the options before it"
    try:
        return _plain(field.get_default(call_default_factory=True))
    except Exception as error:  # the factory is the plugin's own; `alignkit plugins doctor` reports it
        return f"its default fails: {said_by(error)}"


def type_name(annotation: Any, slot: Kind | None = None) -> str:
    """A type as people write it: `float`, `'token' | 'sequence'`, `list of text`, `reward source | none`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(repr(value) for value in arguments)
    if origin in (Union, UnionType):
        return " | ".join(type_name(a, slot) for a in arguments)
    container = origin or annotation
    if container in (list, tuple, set, frozenset):
        inner = [a for a in arguments if a is not Ellipsis]
        listed = " and ".join(type_name(a, slot) for a in inner) if container is tuple and len(inner) > 1 else ""
        return listed or f"list of {type_name(inner[0], slot) if inner else 'values'}"
    if container is dict:
        return f"mapping of names to {type_name(arguments[1], slot) if arguments else 'values'}"
    if annotation is ComponentSpec:
        return (slot or "component").replace("_", " ")
    names = {str: "text", bool: "true | false", NoneType: "none", Path: "path", Any: "any value"}
    return str(names.get(annotation, getattr(annotation, "__name__", annotation)))


def _bounds(field: FieldInfo) -> Iterator[str]:
    for marker in field.metadata:
        for attribute, text in BOUNDS.items():
            value = getattr(marker, attribute, None)
            if value is not None and not callable(value):
                yield text.format(value)


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    if isinstance(value, ComponentSpec):
        return {"name": value.name, **value.options} if value.options else value.name
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if isinstance(value, str | int | float | bool | NoneType) else str(value)


def source_of(thing: Any) -> str | None:
    """`file.py:12` of a function or class, with its whole path; None for what has no Python source."""
    try:
        unwrapped = inspect.unwrap(getattr(thing, "func", thing))
        return f"{inspect.getsourcefile(unwrapped)}:{inspect.getsourcelines(unwrapped)[1]}"
    except (OSError, TypeError):
        return None


def example(registered: Registered) -> str:
    """A line for a recipe (or the command line) that names the component, with the options it cannot do without."""
    needed = [(o.name, f"<{o.type}>") for o in options_of(registered.component.config) if o.required]
    name, kind = registered.component.name, registered.kind
    inside = "".join(f", {option}: {value}" for option, value in needed)
    value = f"{{name: {name}{inside}}}" if needed else name
    if kind == "step":
        return f"steps:\n  - {{id: my_{name}, step: {name}{inside}}}"
    if kind == "tracker":
        return f"trackers: [{value}]"
    if kind == "data_format":
        return f"format: {value}"
    if kind == "command":
        return f"alignkit {name} --help"
    return {"kernel": f"kernels: {name}", "launcher": f"launcher: {value}"}.get(kind, f"{kind}: {value}")


def find(manager: PluginManager, text: str) -> Registered:
    """The component that `KIND:NAME`, `KIND:DISTRIBUTION:NAME`, `DISTRIBUTION:NAME` or `NAME` means."""
    first, colon, rest = text.partition(":")
    kind = first.replace("-", "_")
    if colon and kind in KINDS:
        return manager.get(next(k for k in KINDS if k == kind), rest)
    if text.count(":") > 1:
        raise UserError(f"no kind {first!r}{did_you_mean(first, list(KINDS))}", hint=f"kinds: {', '.join(KINDS)}")
    found = [r for k in KINDS for r in manager.all(k) if text in (r.component.name, r.reference)]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{r.kind}:{r.reference}" for r in found)
        raise UserError(f"{text!r} may be several components", hint=f"write one of {choices}")
    names = [name for k in KINDS for name in manager.names(k)]
    failed = "; ".join(f"{p.owner}: {p.problem}" for p in manager.plugins if p.problem)
    raise UserError(
        f"no component {text!r} is installed{did_you_mean(text, names)}",
        hint=f"plugins that failed to load: {failed}" if failed else "`alignkit plugins` lists what is there",
    )
