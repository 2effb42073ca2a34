"""A weighted sum equals a plain loop, says what each source gave, and names the source that failed."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from alignkit.errors import Fault, UserError
from alignkit.manager import PluginManager
from alignkit.protocols import ReportsFigures
from alignkit.recipe import ComponentSpec
from alignkit_plugins.reward_function.source import FunctionSource
from alignkit_plugins.reward_weighted.config import WeightedConfig
from alignkit_plugins.reward_weighted.source import Part, WeightedSum
from helpers.context import TextScores, make_context, make_rollout

TEXTS = [" won me over", " is long", " is warm and slow", " two"]


@pytest.fixture
def rollout(llama: Any) -> Any:
    return make_rollout(llama, ["the film"] * 4, [llama.encoder.text(t) for t in TEXTS])


def letters(letter: str, scale: float = 1.0) -> TextScores:
    return TextScores(lambda text: scale * text.count(letter))


def counts(letter: str, scale: float = 1.0) -> list[float]:
    return [scale * t.count(letter) for t in TEXTS]


class TestSum:
    def test_equals_a_plain_loop(self, rollout: Any) -> None:
        source = WeightedSum([Part("o", letters("o"), 0.5, False), Part("w", letters("w"), -2.0, False)])
        expected = [0.5 * o - 2.0 * w for o, w in zip(counts("o"), counts("w"), strict=True)]
        assert source.score(rollout).tolist() == pytest.approx(expected)

    def test_a_normalised_source_has_mean_zero_and_deviation_one_whatever_its_scale(self, rollout: Any) -> None:
        own = counts("o")
        mean = sum(own) / len(own)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in own) / len(own))
        expected = [3.0 * (x - mean) / deviation + w for x, w in zip(own, counts("w"), strict=True)]
        for scale in (1.0, 1000.0):
            source = WeightedSum([Part("o", letters("o", scale), 3.0, True), Part("w", letters("w"), 1.0, False)])
            assert source.score(rollout).tolist() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("value", [0.1, 0.0, -1e6])
    def test_a_batch_of_equal_scores_normalises_to_zero(self, rollout: Any, value: float) -> None:
        source = WeightedSum([Part("same", TextScores(lambda t: value), 1.0, True)])
        assert source.score(rollout).tolist() == [0.0] * 4

    def test_weight_zero_is_reported_and_counts_nothing(self, rollout: Any) -> None:
        source = WeightedSum([Part("o", letters("o"), 0.0, False), Part("w", letters("w"), 1.0, False)])
        assert source.score(rollout).tolist() == counts("w")
        assert source.figures()["reward/o"] == pytest.approx(sum(counts("o")) / 4)


class TestFigures:
    def test_are_the_means_of_the_last_call_before_weight_and_normalisation(self, rollout: Any, llama: Any) -> None:
        source = WeightedSum([Part("o", letters("o"), 0.5, True), Part("w", letters("w"), -2.0, False)])
        assert isinstance(source, ReportsFigures)
        source.score(make_rollout(llama, ["x"], [llama.encoder.text("ooo www")]))
        source.score(rollout)
        means = {"reward/o": sum(counts("o")) / 4, "reward/w": sum(counts("w")) / 4}
        assert source.figures() == pytest.approx(means)

    def test_a_sum_inside_a_sum_keeps_its_own_names_below(self, rollout: Any) -> None:
        inner = WeightedSum([Part("o", letters("o"), 2.0, False)])
        source = WeightedSum([Part("rules", inner, 1.0, False)])
        source.score(rollout)
        mean = sum(counts("o")) / 4
        assert source.figures() == pytest.approx({"reward/rules": 2 * mean, "reward/rules/o": mean})

    def test_normalisation_anywhere_inside_is_said(self) -> None:
        plain = WeightedSum([Part("o", letters("o"), 1.0, False)])
        relative = WeightedSum([Part("o", letters("o"), 1.0, True)])
        assert not plain.batch_relative
        assert relative.batch_relative
        assert WeightedSum([Part("x", relative, 1.0, False), Part("y", plain, 1.0, False)]).batch_relative


class TestErrors:
    def test_scores_that_are_not_finite_name_their_source(self, rollout: Any) -> None:
        bad = TextScores(lambda t: float("nan") if "warm" in t else 1.0)
        source = WeightedSum([Part("o", letters("o"), 1.0, False), Part("judge", bad, 0.0, True)])
        with pytest.raises(Fault, match=r"source 'judge': .* 1 of 4 completions as not finite, first nan"):
            source.score(rollout)

    def test_a_function_that_fails_keeps_its_place(self, rollout: Any) -> None:
        source = WeightedSum([Part("mine", FunctionSource(lambda p, c: 1 / 0, "mine:f", {}), 1.0, False)])
        with pytest.raises(Fault, match="source 'mine': the reward function failed") as caught:
            source.score(rollout)
        assert (caught.value.where or "").startswith("mine:f (test_weighted.py:")

    def test_scores_of_the_wrong_number_name_their_source(self, rollout: Any) -> None:
        class Short:
            def score(self, rollout: Any) -> torch.Tensor:
                return torch.zeros(1)

        with pytest.raises(Fault, match=r"source 'short': .*shape \(1,\) for 4"):
            WeightedSum([Part("short", Short(), 1.0, False)]).score(rollout)

    def test_a_source_that_only_judges_is_refused_with_its_name(self) -> None:
        manager = PluginManager()
        manager.load()
        spec = ComponentSpec(name="weighted", sources={"taste": "film_taste", "people": "human"})
        with pytest.raises(UserError, match="'human' gives judgements, not scores") as caught:
            make_context(manager=manager).build("reward_source", spec)
        assert caught.value.where == "sources.people"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sources": {}}, "at least 1 item"),
            ({}, "sources"),
            ({"sources": {"taste": "x"}, "weights": {"tast": 1}}, r"weights has 'tast', .*did you mean 'taste'"),
            ({"sources": {"taste": "x"}, "normalise": {"y": "batch"}}, "normalise has 'y', which is none of sources"),
            ({"sources": {"taste": "x"}, "normalise": {"taste": "rank"}}, "'none' or 'batch'"),
            ({"sources": {"taste": "x"}, "weights": {"taste": float("nan")}}, "finite"),
            ({"sources": {"a": "x", "b": "x"}, "weights": {"a": 0, "b": 0}}, "every weight is 0"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            WeightedConfig(**options)


def test_a_weight_left_out_is_one(rollout: Any) -> None:
    manager = PluginManager()
    manager.load()
    spec = ComponentSpec(
        name="weighted",
        sources={"a": {"name": "length", "coef": 1.0}, "b": {"name": "length", "coef": 1.0, "target": 2}},
        weights={"b": 10.0},
    )
    source = make_context(manager=manager).build("reward_source", spec)
    lengths = [len(c) for c in rollout.completion_ids]
    assert source.score(rollout).tolist() == pytest.approx([-n - 10 * max(0, n - 2) for n in lengths])
