"""Sources inside `weighted` are treated like any other: checked, permitted, counted as inputs, measured."""

import json
from pathlib import Path

import pytest
import yaml

from alignkit.engine.identity import input_references, step_identity
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.recipe import load_recipe
from alignkit.recipe.check import check_recipe
from alignkit.recipe.load import Loaded
from alignkit.recipe.schema import recipe_schema
from helpers.commands import alignkit
from helpers.models import make_policy

RECIPE = """\
name: mix
policy: {name: causal_lm, path: MODEL}
steps:
  - {id: prompts, step: data, format: prompts, files: prompts.jsonl, heldout: 0.4}
  - {id: labels, step: collect, prompts: "@prompts", reward_source: simulated}
  - {id: judge, step: train, optimizer_stage: reward_model, data: "@labels"}
  - id: aligned
    step: align
    policy: MODEL
    prompts: "@prompts"
    reward_source: SOURCE
    monitor:
      mixed: SOURCE
    iterations: 1
    batch_size: 4
    sampling: {max_length: 4}
"""
MIX = """
          name: weighted
          sources:
            taste: {name: reward_model, model: "@judge"}
            rules:
              name: weighted
              sources:
                mine: {name: function, path: "my_rewards:score"}
                length: {name: length, coef: 0.01}
          weights: {rules: 0.5}"""
DIRECT = '{name: function, path: "my_rewards:score"}'
ALLOWED = frozenset({"my_rewards:score"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with prompts, a model and a function that leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    make_policy().save(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "the film {n}"}}\n' for n in range(12)))
    (tmp_path / "my_rewards.py").write_text(
        "open('ran', 'w').close()\ndef score(prompts, completions):\n    return [2.0] * len(prompts)\n"
    )
    return tmp_path


def load(folder: Path, source: str, *overrides: str) -> Loaded:
    path = folder / "mix.yaml"
    path.write_text(RECIPE.replace("MODEL", str(folder / "model")).replace("SOURCE", source))
    manager = PluginManager()
    manager.load()
    return load_recipe(str(path), overrides, manager)


def refusal(folder: Path, source: str, *overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load(folder, source, *overrides)
    return caught.value


class TestChecks:
    def test_a_nested_option_is_checked_with_its_line(self, folder: Path) -> None:
        error = refusal(folder, MIX.replace("coef: 0.01", "coeff: 0.01"))
        assert "reward_source.sources.rules.sources.length.coeff (did you mean 'coef'?)" in error.what
        assert (error.where or "").endswith("mix.yaml:19")

    def test_a_nested_name_is_checked(self, folder: Path) -> None:
        error = refusal(folder, MIX.replace("name: length", "name: lenght"))
        assert "no reward source 'lenght' is installed (did you mean 'length'?)" in error.what

    def test_a_nested_reference_must_be_to_an_earlier_step(self, folder: Path) -> None:
        assert "@judg refers to no earlier step" in refusal(folder, MIX.replace("@judge", "@judg")).what

    def test_no_source_at_all_is_refused_where_it_stands(self, folder: Path) -> None:
        error = refusal(folder, "{name: weighted, sources: {}}")
        assert "reward_source.sources" in error.what

    def test_a_nested_components_own_check_runs(self, folder: Path) -> None:
        loaded = load(folder, MIX.replace("@judge", str(folder / "nowhere")))
        with pytest.raises(UserError, match="nowhere"):
            check_recipe(loaded.recipe, loaded.manager, loaded.lines, ALLOWED)

    def test_options_of_sources_can_be_overridden(self, folder: Path) -> None:
        loaded = load(folder, MIX, "aligned.reward_source.sources.rules.weights.mine=3")
        rules = loaded.recipe.steps[3].options["reward_source"]["sources"]["rules"]
        assert rules["weights"] == {"mine": 3}

    def test_the_editors_schema_knows_nested_options(self, folder: Path) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        schema = jsonschema.Draft202012Validator(recipe_schema(load(folder, MIX).manager))
        for source, valid in (
            (MIX, True),
            (MIX.replace("0.5", "$weight"), True),
            (MIX.replace("coef: 0.01", "coeff: 0.01"), False),
            (MIX.replace("name: length", "name: lenght"), False),
        ):
            assert schema.is_valid(yaml.safe_load(RECIPE.replace("SOURCE", source))) is valid


class TestCode:
    @pytest.mark.parametrize("source", [DIRECT, MIX], ids=["directly", "nested"])
    def test_is_asked_for_in_the_same_words(self, folder: Path, source: str) -> None:
        loaded = load(folder, source)
        with pytest.raises(UserError, match="code of my_rewards:score, which was not allowed") as caught:
            check_recipe(loaded.recipe, loaded.manager, loaded.lines, frozenset())
        assert "--allow-code my_rewards:score" in str(caught.value)
        check_recipe(loaded.recipe, loaded.manager, loaded.lines, ALLOWED)
        assert not (folder / "ran").exists()

    def test_the_file_it_is_in_counts_as_an_input(self, folder: Path) -> None:
        loaded = load(folder, MIX)
        step = loaded.recipe.steps[3]
        before = step_identity(loaded.recipe, step, 1, loaded.manager, {})
        (folder / "my_rewards.py").write_text("def score(prompts, completions):\n    return [3.0] * len(prompts)\n")
        after = step_identity(loaded.recipe, step, 1, loaded.manager, {})
        assert before["files"]["my_rewards:score"] != after["files"]["my_rewards:score"]


def test_nested_references_and_components_are_part_of_the_steps_identity(folder: Path) -> None:
    loaded = load(folder, MIX)
    step = loaded.recipe.steps[3]
    assert input_references(loaded.recipe, step) == ["@judge", "@prompts"]
    components = set(step_identity(loaded.recipe, step, 1, loaded.manager, {})["components"])
    assert {f"reward_source:alignkit:{n}" for n in ("weighted", "reward_model", "function", "length")} <= components


def test_a_run_trains_on_the_sum_and_logs_each_source(folder: Path) -> None:
    source = MIX.replace('{name: reward_model, model: "@judge"}', "{name: overlong, max_length: 4, cache: 4}")
    text = RECIPE.replace("MODEL", str(folder / "model")).replace("SOURCE", source)
    kept = [line for line in text.splitlines() if "id: labels" not in line and "id: judge" not in line]
    (folder / "mix.yaml").write_text("\n".join(kept) + "\n")
    refused = alignkit("run", "mix.yaml", cwd=folder, status=2)
    assert "--allow-code my_rewards:score" in refused.stderr
    alignkit("run", "mix.yaml", "--allow-code", "my_rewards", cwd=folder)
    rows = [json.loads(line) for line in (folder / "runs/mix/metrics.jsonl").open()]
    row = next(r for r in rows if r["step"] == "aligned" and r["index"] == 1)
    assert row["reward/rules/mine"] == pytest.approx(2.0)
    assert row["reward/rules/length"] == pytest.approx(-0.01 * row["length"])
    assert row["reward/taste"] == pytest.approx(-row["length"] / 4)
    mixed = row["reward/taste"] + 0.5 * (2.0 - 0.01 * row["length"])
    assert row["reward"] == pytest.approx(mixed)
    assert row["eval_mixed"] == pytest.approx(row["eval_reward"])


def test_a_judge_that_normalises_over_the_batch_is_refused(folder: Path) -> None:
    """Each policy's completions would have mean 0."""
    relative = "{name: weighted, sources: {a: {name: length, coef: 1.0}}, normalise: {a: batch}}"
    (folder / "compare.yaml").write_text(f"""
name: compare
policy: {{name: causal_lm, path: model}}
steps:
  - {{id: prompts, step: data, format: prompts, files: prompts.jsonl}}
  - {{id: report, step: evaluate, against: model, prompts: "@prompts", sampling: {{max_length: 4}}, judge: {relative}}}
""")
    refused = alignkit("run", "compare.yaml", cwd=folder, status=2)
    assert "the judge normalises scores over a batch" in refused.stderr
