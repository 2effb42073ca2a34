"""A JSON schema of recipes for editors, built from the installed components' own models."""

from typing import Any

from alignkit.components import Kind
from alignkit.manager import PluginManager, Registered
from alignkit.recipe.model import Recipe, StepSpec


def recipe_schema(manager: PluginManager) -> dict[str, Any]:
    """JSON schema (draft 2020-12). Options of a step depend on `step`, those of a component on `name`."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    definitions = schema.setdefault("$defs", {})
    steps = [_step(r, definitions) for r in manager.all("step")]
    schema["properties"]["steps"]["items"] = {"anyOf": steps}
    schema["properties"]["policy"] = _choice(manager, "policy", definitions)
    schema["properties"]["trackers"]["items"] = _choice(manager, "tracker", definitions)
    definitions["components"] = {
        kind: _choice(manager, kind, definitions)
        for kind in ("reward_source", "advantage", "optimizer_stage", "sampler", "data_format")
    }
    return schema


def _options(registered: Registered, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = registered.component.config.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(schema.pop("$defs", {}))
    return schema


def _step(registered: Registered, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _options(registered, definitions)
    base = StepSpec.model_json_schema()["properties"]
    schema["properties"] = {**base, "step": {"const": registered.component.name}, **schema.get("properties", {})}
    schema["required"] = ["id", "step", *schema.get("required", [])]
    schema["description"] = registered.component.summary
    return schema


def _choice(manager: PluginManager, kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    options: list[dict[str, Any]] = [{"type": "string", "enum": manager.names(kind)}]
    for registered in manager.all(kind):
        schema = _options(registered, definitions)
        schema["properties"] = {"name": {"const": registered.component.name}, **schema.get("properties", {})}
        schema["required"] = ["name", *schema.get("required", [])]
        schema["description"] = registered.component.summary
        options.append(schema)
    return {"anyOf": options}
