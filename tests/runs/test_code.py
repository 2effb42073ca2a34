"""Recipes can come from strangers: code runs only when the person at the keyboard named it."""

from pathlib import Path

import pytest

from helpers.commands import alignkit
from helpers.models import make_policy

RECIPE = """
name: fn
policy: {{name: causal_lm, path: {model}{more}}}
steps:
  - {{id: prompts, step: data, format: prompts, files: prompts.jsonl}}
  - id: aligned
    step: align
    policy: {model}
    prompts: "@prompts"
    reward_source: {{name: function, path: "my_rewards:score"}}
    iterations: 1
    batch_size: 4
    sampling: {{max_length: 4}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_policy().save(tmp_path / "model")
    (tmp_path / "fn.yaml").write_text(RECIPE.format(model=tmp_path / "model", more=""))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the cat"}\n{"prompt": "a dog"}\n')
    (tmp_path / "my_rewards.py").write_text(
        "open('ran', 'w').close()\ndef score(prompts, completions):\n    return [1.0] * len(prompts)\n"
    )
    return tmp_path


def test_a_function_runs_only_when_allowed_and_its_change_is_noticed(folder: Path) -> None:
    refused = alignkit("run", "fn.yaml", cwd=folder, status=2)
    assert "--allow-code my_rewards:score" in refused.stderr
    assert not (folder / "runs").exists()
    assert not (folder / "ran").exists(), "the module was imported"
    alignkit("run", "fn.yaml", "--allow-code", "my_rewards:score", cwd=folder)
    assert (folder / "ran").exists()
    source = folder / "my_rewards.py"
    source.write_text(source.read_text().replace("1.0", "-7.0"))
    changed = alignkit("run", "fn.yaml", "--allow-code", "my_rewards", cwd=folder, status=2)
    assert "my_rewards:score" in changed.stderr
    assert "--from aligned" in changed.stderr


def test_a_model_with_code_must_be_allowed_too(folder: Path) -> None:
    recipe = RECIPE.format(model=folder / "model", more=", trust_remote_code: true")
    (folder / "fn.yaml").write_text(recipe)
    refused = alignkit("check", "fn.yaml", "--allow-code", "my_rewards", cwd=folder, status=2)
    assert f"--allow-code {folder / 'model'}" in refused.stdout
