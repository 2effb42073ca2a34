"""A small recipe as text, and what it takes to check it: real built-ins, or a message."""

from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit import UserError
from alignkit.manager import PluginManager
from alignkit.recipe import load_recipe
from alignkit.recipe.load import Loaded

RECIPE = """\
name: small
seed: 0
rounds: 1
vars:
  judge: film_taste
  rate: 1e-3
  empty: null
policy:
  name: causal_lm
  init: {preset: nano}
  tokenizer: {train_on: "@corpus", vocab_size: 300}
steps:
  - id: corpus
    step: data
    format: {name: film_world, rows: 100}
  - id: sft
    step: train
    optimizer_stage: {name: sft, lr: $rate}
    data: "@corpus"
  - id: aligned
    step: align
    policy: "@sft"
    reward_source: $judge
    prompts: "@corpus"
    advantage: gae
    sampling: {temperature: 1.0}
    iterations: 2
    batch_size: 4
"""

Load = Callable[..., Loaded]
Refused = Callable[..., UserError]


@pytest.fixture(scope="session")
def manager() -> PluginManager:
    """All built-ins."""
    found = PluginManager()
    found.load()
    return found


@pytest.fixture
def load(tmp_path: Path, manager: PluginManager) -> Load:
    """`load("old", "new", *overrides)`: the small recipe with one text replaced, read and checked."""

    def loaded(old: str = "", new: str = "", *overrides: str) -> Loaded:
        assert old in RECIPE
        path = tmp_path / "small.yaml"
        path.write_text(RECIPE.replace(old, new, 1) if old else RECIPE, encoding="utf-8")
        return load_recipe(str(path), overrides, manager)

    return loaded


@pytest.fixture
def refused(load: Load, tmp_path: Path) -> Refused:
    """The UserError that `load` must raise; its `where` is made relative, and nothing was written."""

    def error(old: str = "", new: str = "", *overrides: str) -> UserError:
        with pytest.raises(UserError) as caught:
            load(old, new, *overrides)
        assert [p.name for p in tmp_path.iterdir()] == ["small.yaml"]
        found = caught.value
        found.where = (found.where or "").replace(f"{tmp_path}/", "")
        return found

    return error
