"""Length penalties against the formulas written as branches."""

from typing import Any

import pytest
from pydantic import ValidationError

from alignkit.manager import PluginManager
from alignkit.recipe import ComponentSpec
from alignkit_plugins.reward_length.config import LengthConfig, OverlongConfig
from alignkit_plugins.reward_length.source import Length, Overlong
from helpers.context import make_context, make_rollout

LENGTHS = [1, 2, 5, 6, 7, 9, 10, 11, 30]


@pytest.fixture
def rollout(llama: Any) -> Any:
    return make_rollout(llama, ["the film"] * len(LENGTHS), [[40] * n for n in LENGTHS])


def punishment(length: int, longest: int, cache: int) -> float:
    """Yu et al. 2025, equation 13, case by case."""
    if length <= longest - cache:
        return 0.0
    if length <= longest:
        return ((longest - cache) - length) / cache
    return -1.0


@pytest.mark.parametrize(("longest", "cache"), [(10, 4), (10, 10), (10, 1), (100, 5), (2, 1)])
def test_overlong_is_the_papers_equation(rollout: Any, longest: int, cache: int) -> None:
    found = Overlong(longest, cache).score(rollout).tolist()
    assert found == pytest.approx([punishment(n, longest, cache) for n in LENGTHS])


def test_the_papers_numbers_of_overlong(llama: Any) -> None:
    """Section 4.1: 16,384 tokens expected, a cache of 4,096 more, 20,480 at most."""
    lengths = [16384, 16385, 18432, 20480, 20481]
    rollout = make_rollout(llama, ["the film"] * 5, [[40] * n for n in lengths])
    found = Overlong(20480, 4096).score(rollout).tolist()
    assert found == pytest.approx([0.0, -1 / 4096, -0.5, -1.0, -1.0])


@pytest.mark.parametrize("target", [0, 6, 100])
def test_length_costs_each_token_beyond_the_target(rollout: Any, target: int) -> None:
    expected = [-0.5 * (n - target) if n > target else 0.0 for n in LENGTHS]
    assert Length(0.5, target).score(rollout).tolist() == pytest.approx(expected)


def test_the_stop_token_counts(llama: Any) -> None:
    rollout = make_rollout(llama, ["a", "a"], [[40, 41], [40, llama.encoder.end_id]])
    assert Length(1.0, 0).score(rollout).tolist() == [-2.0, -2.0]


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="cache 11 is longer than max_length 10"):
        OverlongConfig(max_length=10, cache=11)
    for options in ({"max_length": 0, "cache": 1}, {"max_length": 10, "cache": 0}, {"max_length": 10}):
        with pytest.raises(ValidationError):
            OverlongConfig(**options)
    for coef in (0.0, -1.0, float("inf")):
        with pytest.raises(ValidationError):
            LengthConfig(coef=coef)


def test_recipes_can_name_them(rollout: Any) -> None:
    manager = PluginManager()
    manager.load()
    context = make_context(manager=manager)
    for spec in (
        ComponentSpec(name="length", coef=0.1, target=3),
        ComponentSpec(name="overlong", max_length=10, cache=4),
    ):
        scores = context.build("reward_source", spec).score(rollout)
        assert scores.shape == (len(LENGTHS),)
        assert scores.min() < 0
