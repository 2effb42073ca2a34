"""`compat` fills in what a reference implementation does, and never what the recipe says."""

from typing import Any

import pytest
from pydantic import ValidationError

from alignkit_plugins.step_align.config import AlignConfig

BASE: dict[str, Any] = {"reward_source": "film_taste", "prompts": "@corpus", "iterations": 1}


def config(**options: Any) -> AlignConfig:
    return AlignConfig.model_validate({**BASE, **options})


def test_without_it_nothing_is_filled_in() -> None:
    plain = config()
    assert plain.missing_stop is None
    assert plain.optimizer_stage.options == {}


def test_openai() -> None:
    filled = config(compat="openai")
    assert filled.whiten_rewards
    assert filled.missing_stop is not None
    assert filled.missing_stop.value == -1.0
    assert filled.normalise_scores is not None
    assert filled.normalise_scores.mode == "reference"
    assert filled.critic == "shared"
    assert filled.optimizer_stage.options["value_coef"] == 0.1


def test_n_plus_and_verl_differ_where_they_do() -> None:
    n_plus, verl = config(compat="n_plus"), config(compat="verl")
    assert n_plus.score_position == "after_stop"
    assert verl.score_position == "last_token"
    assert (n_plus.kl.target_unit, verl.kl.target_unit) == ("completion", "token")
    assert n_plus.advantage.options["whiten_variance"] == "biased"
    assert verl.advantage.options["whiten_variance"] == "unbiased"
    assert verl.missing_stop is None


def test_what_the_recipe_says_wins() -> None:
    filled = config(
        compat="n_plus",
        kl={"coef": 0.3},
        missing_stop={"mode": "subtract", "value": 2.0},
        optimizer_stage={"name": "ppo", "epochs": 2},
        advantage="grpo",
    )
    assert filled.kl.coef == 0.3
    assert filled.missing_stop is not None
    assert (filled.missing_stop.mode, filled.missing_stop.value) == ("subtract", 2.0)
    assert filled.optimizer_stage.options["epochs"] == 2
    assert filled.optimizer_stage.options["eps"] == 1e-5
    assert filled.advantage.options == {}  # another estimator keeps its own defaults


def test_a_critic_from_a_reward_model_is_one_of_its_own() -> None:
    assert config(compat="openai", critic_init="@reward").critic == "separate"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compat": "trl"}, "openai"),
        ({"kl": {"placement": "both"}}, "needs estimator: full"),
        ({"critic": "shared", "critic_init": "@reward"}, "leave critic_init out"),
        ({"compat": "openai", "optimizer_stage": {"lr": 1e-3}}, "name"),
    ],
)
def test_what_cannot_be_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**options)
