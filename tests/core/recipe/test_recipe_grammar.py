"""What a recipe may say; every mistake is a UserError with file, line and a suggestion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit import UserError
from alignkit.recipe import Recipe, load_recipe
from alignkit.recipe.source import parse_value, read_yaml

Refused = Callable[..., UserError]
Load = Callable[..., Any]

UNKNOWN_KEYS = {
    "recipe": ("seed: 0", "sede: 0", "small.yaml:2", "unknown key sede (did you mean 'seed'?)"),
    "plugins": ("rounds: 1", "plugins: {disabel: [x]}", "small.yaml:3", "plugins.disabel (did you mean 'disable'?)"),
    "policy": ("  init: {", "  intit: {", "small.yaml:10", "policy.intit (did you mean 'init'?)"),
    "inside policy": ("vocab_size", "vocab_sice", "small.yaml:11", "tokenizer.vocab_sice (did you mean 'vocab_size'?)"),
    "step": ('    policy: "', '    polcy: "', "small.yaml:22", "steps.2.polcy (did you mean 'policy'?)"),
    "step's own keys": (
        "    data: ",
        "    each_rond: true\n    data: ",
        "small.yaml:19",
        "(did you mean 'each_round'?)",
    ),
    "component": ("rows: 100", "rwos: 100", "small.yaml:15", "(did you mean 'rows'?)"),
    "name of a step": ("    data: ", "    name: x\n    data: ", "small.yaml:19", "unknown key name"),
    "sampling": ("temperature:", "temprature:", "small.yaml:26", "(did you mean 'temperature'?)"),
    "tracker": ("rounds: 1", "trackers: [{name: jsonl, fil: x}]", "small.yaml:3", "unknown key trackers.0.fil"),
}


@pytest.mark.parametrize("level", UNKNOWN_KEYS)
def test_unknown_key_names_line_and_nearest_key(level: str, refused: Refused) -> None:
    old, new, where, text = UNKNOWN_KEYS[level]
    error = refused(old, new)
    assert error.where == where
    assert text in error.what


UNKNOWN_NAMES = {
    "step": ("step: align", "step: algin", "small.yaml:20", "no step 'algin' is installed (did you mean 'align'?)"),
    "policy": ("causal_lm", "causallm", "small.yaml:9", "(did you mean 'causal_lm'?)"),
    "format": ("film_world", "filmworld", "small.yaml:15", "(did you mean 'film_world'?)"),
    "stage": ("name: sft, lr", "name: sfd, lr", "small.yaml:18", "(did you mean 'sft'?)"),
    "short form": ("advantage: gae", "advantage: gea", "small.yaml:25", "(did you mean 'gae'?)"),
    "tracker": ("rounds: 1", "trackers: [json]", "small.yaml:3", "(did you mean 'jsonl'?)"),
    "kernels": ("rounds: 1", "kernels: tritn", "small.yaml:3", "no kernel 'tritn'"),
}


@pytest.mark.parametrize("kind", UNKNOWN_NAMES)
def test_unknown_component_names_line_and_nearest_name(kind: str, refused: Refused) -> None:
    old, new, where, text = UNKNOWN_NAMES[kind]
    error = refused(old, new)
    assert text in error.what
    assert error.where == where


BAD_VALUES = {
    "missing name": ("name: small\n", "", "small.yaml:1", "name is missing"),
    "missing step": ("    step: data\n", "", "small.yaml:13", "steps.0.step is missing"),
    "misspelled step": ("    step: data\n", "    stpe: data\n", "small.yaml:13", "(is 'stpe' meant to be it?)"),
    "missing option": ("    reward_source: $judge\n", "", "small.yaml:20", "reward_source is missing"),
    "no policy": ("policy:\n  name: causal_lm", "policy:\n  nmae: causal_lm", "small.yaml:8", "policy.name is missing"),
    "wrong type": ("rows: 100", "rows: many", "small.yaml:15", "(got 'many')"),
    "negative seed": ("seed: 0", "seed: -1", "small.yaml:2", "seed: Input should be greater"),
    "no rounds": ("rounds: 1", "rounds: 0", "small.yaml:3", "rounds: Input should be greater"),
    "component a number": ("advantage: gae", "advantage: 5", "small.yaml:25", "advantage"),
    "same id": ("id: sft", "id: corpus", "small.yaml", "step id 'corpus' is used twice"),
    "id is reserved": ("id: sft", "id: latest", "small.yaml:16", "a meaning of its own"),
    "id of a key": ("id: sft", "id: policy", "small.yaml:16", "a meaning of its own"),
    "vars a list": (
        "  judge: film_taste\n  rate: 1e-3\n  empty: null\n",
        "  - x\n",
        "small.yaml:4",
        "vars is a mapping",
    ),
    "steps empty": ("steps:\n", "steps: []\nvarz:\n", "small.yaml", "steps: Tuple should have at least 1 item"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_value(case: str, refused: Refused) -> None:
    old, new, where, text = BAD_VALUES[case]
    error = refused(old, new)
    assert text in error.what
    assert str(error.where).startswith(where)


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".hidden", "", "a b", "a\\b", "x" * 101, "a\n", "-x", "ä"])
def test_name_of_a_run_cannot_leave_its_folder(name: str, refused: Refused) -> None:
    assert "a name has letters" in refused("name: small", f"name: {name!r}").what


@pytest.mark.parametrize("id", ["../up", "a/b", "1a", "", "a.b", "a b", "x" * 65, "@a"])
def test_id_of_a_step_is_a_plain_word(id: str, refused: Refused) -> None:
    assert "an id begins with a letter" in refused("id: sft", f"id: {id!r}").what


def test_output_is_the_users_own_business(load: Load) -> None:
    assert load("seed: 0", "output: ../elsewhere/runs").recipe.output == "../elsewhere/runs"


def test_several_mistakes_are_all_named(refused: Refused) -> None:
    error = refused("seed: 0", "seed: -1\noutpt: x")
    assert "seed" in str(error)
    assert "small.yaml:3: unknown key outpt" in str(error)


BAD_YAML = {
    "syntax": ("seed: 0", "seed: [0", "small.yaml:3", "not valid YAML"),
    "tab": ("seed: 0", "\tseed: 0", "small.yaml:2", "not valid YAML"),
    "duplicate key": ("seed: 0", "seed: 0\nseed: 1", "small.yaml:3", "key 'seed' is given twice"),
    "duplicate inside": ("rows: 100", "rows: 1, rows: 2", "small.yaml:15", "key 'rows' is given twice"),
    "alias": ("seed: 0", "a: &x {b: 1}\nc: *x", "small.yaml:2", "aliases are not allowed"),
    "alias of a value": ("seed: 0", "a: &x 1\nc: *x", "small.yaml:2", "aliases are not allowed"),
    "recursive alias": ("seed: 0", "a: &x [*x]", "small.yaml:2", "aliases are not allowed"),
    "merge": ("seed: 0", "<<: {seed: 1}", "small.yaml:2", "value not understood"),
    "key no text": ("seed: 0", "5: 0", "small.yaml:2", "key 5 is not text"),
    "python tag": ("seed: 0", "seed: !!python/object/apply:os.getcwd []", "small.yaml:2", ""),
    "bad int tag": ("seed: 0", "seed: !!int x", "small.yaml:2", "value not understood"),
    "bad bool tag": ("seed: 0", "seed: !!bool x", "small.yaml:2", "value not understood"),
    "second document": ("seed: 0", "seed: 0\n---\nx: 1", "small.yaml:3", "not valid YAML"),
    "control character": ("seed: 0", "seed: \x07", "small.yaml", "not valid YAML"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_bad_yaml_names_the_line(case: str, refused: Refused) -> None:
    old, new, where, text = BAD_YAML[case]
    error = refused(old, new)
    assert text in error.what
    assert error.where == where


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "[" * 5000])
def test_a_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"r\.yaml"):
        read_yaml(path)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    (tmp_path / "huge.yaml").write_text("# " + "x" * 1_000_001)
    for name, text in {"latin.yaml": "cannot read", "huge.yaml": "larger than", "none.yaml": "no such recipe"}.items():
        with pytest.raises(UserError, match=text):
            read_yaml(tmp_path / name)
    with pytest.raises(UserError, match="no such recipe") as caught:
        load_recipe("quickstrat")
    assert "quickstart" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 0.0003), ("1e5", 100000.0), ("-2.5E+3", -2500.0), ("1e-10", 1e-10), ("3", 3), ("0.5", 0.5),
        ("true", True), ("null", None), ("", None), ("2026-11-20", "2026-11-20"), ("abc", "abc"), ("e5", "e5"),
        ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("[", "["), ("'3e-4'", "3e-4"), ("@sft", "@sft"), ("1e", "1e"),
        ("2026-13-45", "2026-13-45"), ("!!int x", "!!int x"),
    ],
)  # fmt: skip
def test_values_of_overrides(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_scientific_numbers_and_dates_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: 3e-4\nb: '3e-4'\nc: 2026-11-20\nd: [1e5]\n")
    assert read_yaml(path)[0] == {"a": 0.0003, "b": "3e-4", "c": "2026-11-20", "d": [100000.0]}


def test_bare_name_is_short_for_a_mapping() -> None:
    data = {"name": "x", "steps": [{"id": "a", "step": "data"}]}
    assert Recipe.model_validate({**data, "policy": "p"}) == Recipe.model_validate({**data, "policy": {"name": "p"}})


REFERENCES = {
    "unknown": ('data: "@corpus"', 'data: "@corpse"', "small.yaml:19", "(did you mean 'corpus'?)"),
    "later": ('data: "@corpus"', 'data: "@aligned"', "small.yaml:19", "@aligned refers to no earlier step"),
    "itself": ('data: "@corpus"', 'data: "@sft"', "small.yaml:19", "@sft refers to no earlier step"),
    "empty": ('data: "@corpus"', 'data: "@"', "small.yaml:19", "@ refers to no earlier step"),
    "policy": ('train_on: "@corpus"', 'train_on: "@curpus"', "small.yaml:11", "(did you mean 'corpus'?)"),
    "part": ('data: "@corpus"', 'data: "@korpus.texts"', "small.yaml:19", "@korpus.texts refers to no"),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_references_must_name_an_earlier_step(case: str, refused: Refused) -> None:
    old, new, where, text = REFERENCES[case]
    error = refused(old, new)
    assert error.where == where
    assert text in error.what


@pytest.mark.parametrize("reference", ["@latest", "@corpus.demonstrations", "@corpus"])
def test_good_references(reference: str, load: Load) -> None:
    assert load('data: "@corpus"', f'data: "{reference}"').recipe.steps[1].options["data"] == reference


def test_trackers_that_nobody_asked_for_may_be_missing(load: Load, manager: Any) -> None:
    from alignkit.manager import PluginManager
    from alignkit.recipe import Recipe
    from alignkit.recipe.check import chosen_trackers

    taken = ["alignkit:jsonl", "alignkit:progress"]
    assert [t.name for t in load().recipe.trackers] == taken
    assert load("rounds: 1", "trackers: []").recipe.trackers == ()
    assert [t.name for t in load("rounds: 1", "trackers: [progress]").recipe.trackers] == ["progress"]
    silent = Recipe.model_validate(load().recipe.model_dump(exclude={"trackers"}))
    assert [t.name for t in chosen_trackers(silent, manager)] == taken
    assert chosen_trackers(silent, PluginManager()) == []
