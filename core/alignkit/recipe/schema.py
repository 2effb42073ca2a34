"""A JSON schema of recipes for editors, built from the installed components' own models."""

import logging
from typing import Any

from alignkit.components import Kind
from alignkit.manager import BUILTIN_DISTRIBUTION, PluginManager, Registered
from alignkit.recipe.model import ComponentSpec, Recipe, SlotOf, StepSpec

logger = logging.getLogger("alignkit")

SLOTS: tuple[Kind, ...] = (
    "policy",
    "reward_source",
    "advantage",
    "optimizer_stage",
    "sampler",
    "data_format",
    "tracker",
    "launcher",
)
VARIABLE = {"type": "string", "pattern": r"^\$(\w+|\{\w+\})$", "description": "a variable of `vars`"}
ANY_VALUE_MAY_BE = {"$ref": "#/$defs/variable"}


def recipe_schema(manager: PluginManager) -> dict[str, Any]:
    """JSON schema (draft 2020-12). Options of a step depend on `step`, those of a component on `name`."""
    schema = Recipe.model_json_schema()
    definitions: dict[str, Any] = {"variable": VARIABLE}
    for kind in SLOTS:
        definitions[kind] = _choice(manager, kind, definitions)
    steps = [_step(r, definitions) for r in manager.all("step")]
    properties = schema["properties"]
    properties["steps"]["items"] = {"anyOf": steps}
    properties["policy"] = {"$ref": "#/$defs/policy"}
    properties["trackers"]["items"] = {"$ref": "#/$defs/tracker"}
    launcher = properties["launcher"]
    launcher["anyOf"] = [{"$ref": "#/$defs/launcher"}, {"type": "null"}]
    definitions["PluginOptions"] = schema.pop("$defs")["PluginOptions"]
    for name in set(properties) - {"steps", "vars"}:
        properties[name] = _or_variable(properties[name])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$defs"] = definitions
    return schema


def _step(registered: Registered, definitions: dict[str, Any]) -> dict[str, Any]:
    base = StepSpec.model_json_schema()["properties"]
    names = {"enum": [registered.component.name, registered.reference]}
    return _with_keys(registered, {**base, "step": names}, ["id", "step"], definitions)


def _choice(manager: PluginManager, kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    found = manager.all(kind)
    references = sorted({name for r in found for name in (r.component.name, r.reference)})
    options: list[dict[str, Any]] = [{"type": "string", "enum": references}, ANY_VALUE_MAY_BE]
    for registered in found:
        names = {"enum": [registered.component.name, registered.reference]}
        options.append(_with_keys(registered, {"name": names}, ["name"], definitions))
    options.append({"type": "object", "properties": {"name": ANY_VALUE_MAY_BE}, "required": ["name"]})
    return {"anyOf": options}


def _with_keys(
    registered: Registered, keys: dict[str, Any], required: list[str], definitions: dict[str, Any]
) -> dict[str, Any]:
    """The schema of a component's options and the recipe's own keys."""
    schema = _options(registered, definitions)
    schema["properties"] = {**keys, **schema.get("properties", {})}
    schema["required"] = [*required, *schema.get("required", [])]
    schema["description"] = registered.component.summary
    return schema


def _options(registered: Registered, definitions: dict[str, Any]) -> dict[str, Any]:
    # Two plugins may use one class name: definitions are kept apart by kind and owner.
    prefix = f"{registered.kind}.{registered.distribution}.{registered.component.name}."
    config = registered.component.config
    try:
        schema = config.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
    except Exception as error:
        if registered.distribution == BUILTIN_DISTRIBUTION:
            raise
        logger.warning("%s: its options have no JSON schema and are not in it: %s", registered.described, error)
        return {"type": "object"}
    for name, field in config.model_fields.items():
        for marker in field.metadata:
            if isinstance(marker, SlotOf):
                link = f"#/$defs/{prefix}{ComponentSpec.__name__}"
                schema["properties"][name] = _linked(schema["properties"][name], link, f"#/$defs/{marker.kind}")
    inner = {prefix + name: _with_variables(model) for name, model in schema.pop("$defs", {}).items()}
    definitions.update(inner)
    return dict(_with_variables(schema))


def _linked(schema: Any, old: str, new: str) -> Any:
    """A copy with every reference to `old` replaced: a slot takes the components of its kind."""
    if isinstance(schema, dict):
        return {k: new if k == "$ref" and v == old else _linked(v, old, new) for k, v in schema.items()}
    return [_linked(v, old, new) for v in schema] if isinstance(schema, list) else schema


def _with_variables(schema: Any) -> Any:
    """A copy in which every value may also be `$name`."""
    if isinstance(schema, list):
        return [_with_variables(v) for v in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            out[key] = {name: _or_variable(v) for name, v in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = _or_variable(value)
        elif key in ("default", "const", "enum", "examples"):
            out[key] = value
        else:
            out[key] = _with_variables(value)
    return out


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    shown = {k: v for k, v in schema.items() if k in ("description", "default", "title")}
    return {**shown, "anyOf": [_with_variables(schema), ANY_VALUE_MAY_BE]}
