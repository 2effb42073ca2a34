"""Odd but valid configs can be described; types are written as people write them."""

from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import Field

from alignkit import Component
from alignkit.components import KINDS, Config
from alignkit.describe import example, options_of, source_of, type_name, walk
from alignkit.doctor.configs import wrong_defaults
from alignkit.manager import PluginManager, Registered
from alignkit.recipe import ComponentSpec


class Tree(Config):
    """A model that holds itself."""

    size: int = Field(1, description="size")
    children: "list[Tree]" = Field([], description="more of them")
    double: int = Field(default_factory=lambda data: 2 * data["size"], description="twice the size")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (bool, "true | false"),
        (Optional[float], "float | none"),  # noqa: UP045
        (str | None, "text | none"),
        (Literal["a", 2], "'a' | 2"),
        (tuple[float, float], "float and float"),
        (tuple[str, ...], "list of text"),
        (list, "list of values"),
        (dict, "mapping of names to values"),
        (dict[str, ComponentSpec], "mapping of names to reward source"),
        (Any, "any value"),
        (Tree, "Tree"),
    ],
)
def test_type_names(annotation: Any, text: str) -> None:
    assert type_name(annotation, "reward_source") == text


def test_a_model_that_holds_itself_and_a_default_that_depends_on_others() -> None:
    assert [name for name, _ in walk(options_of(Tree))] == ["size", "children", "double"]
    assert options_of(Tree)[2].default == "depends on the options before it"
    assert wrong_defaults(Tree) == []


def test_models_inside_lists_are_unfolded() -> None:
    class Outer(Config):
        trees: Annotated[tuple[Tree, ...] | None, Field(min_length=2)] = None

    assert [name for name, _ in walk(options_of(Outer))][:2] == ["trees", "trees.size"]
    assert options_of(Outer)[0].range == "at least 2 long"


def test_source_of_what_has_none_is_none() -> None:
    assert source_of(len) is None
    assert str(source_of(test_type_names)).rpartition("/")[2].startswith("test_describe.py:")


def test_every_kind_has_an_example_and_those_of_steps_load() -> None:
    for kind in KINDS:
        registered = Registered(kind, Component("mine", print), "p", "d", "1")
        assert "mine" in example(registered)
    manager = PluginManager()
    manager.load()
    train = manager.get("step", "train")
    assert example(train) == "steps:\n  - {id: my_train, step: train, optimizer_stage: <optimizer stage>, data: <text>}"
