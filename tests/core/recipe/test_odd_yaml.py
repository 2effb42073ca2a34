"""YAML that its library fails on with errors of Python, and recipes of another shape than a recipe's."""

from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.recipe.overrides import apply_overrides
from alignkit.recipe.source import Lines, parse_value, read_yaml

ODD = ["!!int ''", "!!int '_'", "!!float ''", "!!int x", "!!bool x", "!!timestamp x", '"\\U99999999"', "*a", "[" * 3000]


@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:20])
def test_odd_values_are_mistakes(tmp_path: Path, value: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: {value}\n")
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value.where).startswith(str(path))
    assert parse_value(value) == value, "on the command line it is a text"


@pytest.mark.parametrize("steps", [3, "data", {"id": "data"}, None, True])
def test_steps_that_are_no_list_do_not_stop_an_override(steps: object) -> None:
    assert apply_overrides({"steps": steps}, ["seed=1"], Lines("r.yaml"))["seed"] == 1
    with pytest.raises(UserError, match="neither a variable nor a step's option"):
        apply_overrides({"steps": steps}, ["data.files=x"], Lines("r.yaml"))


def test_an_override_finds_its_step_behind_something_else() -> None:
    data = {"steps": ["stray", {"id": "a"}, {"id": "b"}]}
    assert apply_overrides(data, ["b.x=1"], Lines("r.yaml"))["steps"] == ["stray", {"id": "a"}, {"id": "b", "x": 1}]
