"""`$name` in a recipe and KEY=VALUE on the command line."""

from collections.abc import Callable
from typing import Any

import pytest

from alignkit import UserError
from alignkit.recipe.overrides import substitute
from alignkit.recipe.source import Lines

Refused = Callable[..., UserError]
Load = Callable[..., Any]
VARIABLES = {"n": 3, "word": "gae", "box": {"name": "x"}, "none": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$n", 3),
        ("${n}", 3),
        ("$box", {"name": "x"}),
        ("a-$word-b", "a-gae-b"),
        ("${word}s", "gaes"),
        ("$n$n", "33"),
        ("$$", "$"),
        ("$$n", "$n"),
        ("$$$n", "$3"),
        ("5$", "5$"),
        ("plain", "plain"),
        ({"k": ["$n", {"d": "$word"}]}, {"k": [3, {"d": "gae"}]}),
        (7, 7),
    ],
)
def test_substitution(text: object, value: object) -> None:
    assert substitute(text, VARIABLES, Lines("r.yaml")) == value


def test_unknown_variable_has_line_and_suggestion(refused: Refused) -> None:
    error = refused("$judge", "$jugde")
    assert error.what == "$jugde is not in vars (did you mean 'judge'?)"
    assert error.where == "small.yaml:23"


def test_variable_without_a_value(refused: Refused, load: Load) -> None:
    error = refused("$judge", "$empty")
    assert error.what == "the variable empty has no value"
    assert error.hint == "add empty=… to the command"
    assert load("$judge", "$empty", "empty=film_taste").recipe.steps[2].options["reward_source"] == "film_taste"


OVERRIDES: dict[str, tuple[str, Callable[[Any], Any], Any]] = {
    "variable": ("judge=simulated", lambda r: r.steps[2].options["reward_source"], "simulated"),
    "vars.": ("vars.rate=3e-4", lambda r: r.steps[1].options["optimizer_stage"]["lr"], 0.0003),
    "step option": ("corpus.heldout=0.2", lambda r: r.steps[0].options["heldout"], 0.2),
    "nested": ("corpus.format.rows=7", lambda r: r.steps[0].options["format"]["rows"], 7),
    "below a bare name": (
        "aligned.advantage.lam=0.5", lambda r: r.steps[2].options["advantage"], {"name": "gae", "lam": 0.5},
    ),
    "below a variable": (
        "aligned.reward_source.sd=1", lambda r: r.steps[2].options["reward_source"], {"name": "film_taste", "sd": 1},
    ),
    "below nothing": ("aligned.kl.coef=0.3", lambda r: r.steps[2].options["kl"], {"coef": 0.3}),
    "seed": ("seed=5", lambda r: r.seed, 5),
    "rounds": ("rounds=2", lambda r: r.rounds, 2),
    "name": ("name=other", lambda r: r.name, "other"),
    "date as name": ("name=2026-11-20", lambda r: r.name, "2026-11-20"),
    "output": ("output=/tmp/x", lambda r: r.output, "/tmp/x"),
    "policy": ("policy.tokenizer.vocab_size=400", lambda r: r.policy.options["tokenizer"]["vocab_size"], 400),
    "list": ("trackers=[jsonl]", lambda r: [t.name for t in r.trackers], ["jsonl"]),
    "last wins": ("rounds=2 rounds=4", lambda r: r.rounds, 4),
    "equals sign in value": ("output=a=b", lambda r: r.output, "a=b"),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERRIDES)
def test_override(case: str, load: Load) -> None:
    texts, get, value = OVERRIDES[case]
    if case == "below a variable":  # the option does not exist: only the grammar is looked at here
        with pytest.raises(UserError, match="unknown key"):
            load("", "", texts)
        return
    assert get(load("", "", *texts.split()).recipe) == value


BAD_OVERRIDES = {
    "no equals sign": ("rounds", "override 'rounds' is not KEY=VALUE"),
    "no key": ("=3", "is not KEY=VALUE"),
    "unknown variable": ("juge=x", "(did you mean 'judge'?)"),
    "unknown step": ("aligend.kl=1", "(did you mean 'aligned'?)"),
    "unknown top": ("sede=1", "(did you mean 'seed'?)"),
    "unknown vars.": ("vars.juge=x", "no variable 'juge' in the recipe (did you mean 'judge'?)"),
    "steps": ("steps=[]", "is neither a variable"),
    "only a step": ("corpus=1", "is neither a variable"),
    "option below a number": ("seed.x=1", "seed has no options"),
    "option below an option": ("corpus.format.rows.x=1", "has no options"),
    "no place in a list": ("trackers.x.name=y", "trackers"),
    "vars": ("vars=5", "vars is a mapping"),
    "unknown option": ("corpus.heldot=0.1", "(did you mean 'heldout'?)"),
    "option of a component inside": ("sft.lr=1e-5", "(did you mean 'optimizer_stage.lr'?)"),
    "unknown reference": ("sft.data=@corps", "(did you mean 'corpus'?)"),
    "unknown component": ("aligned.optimizer_stage=notthere", "notthere"),
    "bad value": ("corpus.heldout=2", "less than 1"),
}


@pytest.mark.parametrize("case", BAD_OVERRIDES)
def test_bad_override(case: str, refused: Refused) -> None:
    override, text = BAD_OVERRIDES[case]
    error = refused("", "", override)
    assert text in error.what
    assert "command line" in str(error.where)


def test_place_in_a_list(load: Load, refused: Refused) -> None:
    new = "trackers: [{name: progress}, {name: progress}]"
    assert [t.name for t in load("rounds: 1", new, "trackers.0.name=jsonl").recipe.trackers] == ["jsonl", "progress"]
    for place in ("2", "x", "-1"):
        assert "is no place in a list of 2" in refused("rounds: 1", new, f"trackers.{place}.name=jsonl").what


def test_a_variable_the_recipe_uses_without_declaring_it(load: Load) -> None:
    assert load("$judge", "$who", "vars.who=film_taste").recipe.steps[2].options["reward_source"] == "film_taste"


def test_overrides_do_not_change_the_file(load: Load) -> None:
    assert load("", "", "rounds=3").recipe.rounds == 3
    assert load().recipe.rounds == 1
