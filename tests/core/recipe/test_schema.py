"""The JSON schema accepts what the checker accepts, and rejects what an editor should underline."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from alignkit import Component, hookimpl
from alignkit.manager import PluginManager, PluginStatus
from alignkit.recipe import load_recipe
from alignkit.recipe.load import shipped_recipes
from alignkit.recipe.schema import recipe_schema
from alignkit.recipe.source import read_yaml

jsonschema = pytest.importorskip("jsonschema")
SHIPPED = shipped_recipes()


@pytest.fixture(scope="module")
def valid(manager: PluginManager) -> Callable[[Any], bool]:
    """Whether a recipe satisfies the schema."""
    schema = recipe_schema(manager)
    jsonschema.Draft202012Validator.check_schema(schema)
    return lambda data: bool(jsonschema.Draft202012Validator(schema).is_valid(data))


def test_recipes_are_shipped() -> None:
    assert "quickstart" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_passes_schema_and_check(name: str, valid: Callable[[Any], bool]) -> None:
    data, _ = read_yaml(SHIPPED[name])
    assert valid(data)
    asked = [f"{key}=given" for key, value in data.get("vars", {}).items() if value is None]
    assert load_recipe(name, asked).recipe.name == data["name"]


def quickstart() -> Any:
    """A fresh copy of the recipe's data."""
    return copy.deepcopy(read_yaml(SHIPPED["quickstart"])[0])


CHANGES: dict[str, tuple[bool, Callable[[Any], Any]]] = {
    "unknown key": (False, lambda d: d.update(sede=1)),
    "seed a text": (False, lambda d: d.update(seed="five")),
    "seed a variable": (True, lambda d: d.update(seed="$s")),
    "unknown policy": (False, lambda d: d["policy"].update(name="nobody")),
    "policy option": (False, lambda d: d["policy"].update(inti=1)),
    "unknown step": (False, lambda d: d["steps"][0].update(step="nothing")),
    "step option": (False, lambda d: d["steps"][0].update(hedlout=0.1)),
    "missing option": (False, lambda d: d["steps"][1].pop("data")),
    "stage option": (False, lambda d: d["steps"][1]["optimizer_stage"].update(learning_rat=1)),
    "stage option a variable": (True, lambda d: d["steps"][1]["optimizer_stage"].update(lr="$lr")),
    "stage by bare name": (True, lambda d: d["steps"][1].update(optimizer_stage="pretrain")),
    "stage of another kind": (False, lambda d: d["steps"][1].update(optimizer_stage="gae")),
    "stage by distribution": (True, lambda d: d["steps"][1].update(optimizer_stage="alignkit:pretrain")),
    "unknown tracker": (False, lambda d: d.update(trackers=["nobody"])),
    "tracker": (True, lambda d: d.update(trackers=["jsonl", {"name": "progress"}])),
    "launcher": (True, lambda d: d.update(launcher={"name": "torchrun", "processes": 2})),
    "launcher by name": (True, lambda d: d.update(launcher="ray")),
    "no launcher": (True, lambda d: d.update(launcher=None)),
    "unknown launcher": (False, lambda d: d.update(launcher="nobody")),
    "unknown option of a launcher": (False, lambda d: d.update(launcher={"name": "torchrun", "procesess": 2})),
    "disable": (True, lambda d: d.update(plugins={"disable": ["x"]})),
    "monitor": (False, lambda d: d["steps"][5]["monitor"].update(more="nobody")),
    "temperature too high": (False, lambda d: d["steps"][5]["sampling"].update(temperature=1000)),
}


@pytest.mark.parametrize("case", CHANGES)
def test_schema_finds_what_check_finds(case: str, valid: Callable[[Any], bool]) -> None:
    expected, change = CHANGES[case]
    data = quickstart()
    assert valid(data)
    change(data)
    assert valid(data) is expected


def test_models_of_one_name_in_two_plugins_do_not_mix() -> None:
    def plugin(inner_type: type) -> Any:
        inner = type("Inner", (BaseModel,), {"__annotations__": {"x": inner_type}})
        config = type("Config", (BaseModel,), {"__annotations__": {"inner": inner}})
        component = Component("c" + inner_type.__name__, print, config)
        return type("P", (), {"alignkit_advantages": hookimpl(lambda self: [component])})()

    manager = PluginManager()
    for kind in (int, str):
        manager.register(plugin(kind), PluginStatus(kind.__name__, "d", "1"))
    assert [p.problem for p in manager.plugins] == [None, None]
    definitions = recipe_schema(manager)["$defs"]
    types = [definitions[f"advantage.d.{n}.Inner"]["properties"]["x"]["anyOf"][0]["type"] for n in ("cint", "cstr")]
    assert types == ["integer", "string"]
