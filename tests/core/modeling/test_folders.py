"""Model folders that are not what they are used as."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignkit.errors import UserError
from alignkit.modeling import folders
from alignkit.modeling.scorer import SequenceScorer
from helpers.models import make_policy, make_scorer


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    make_policy().save(tmp_path / "policy")
    with pytest.raises(UserError, match=r"no weights for score\.weight"):
        SequenceScorer.load(str(tmp_path / "policy"), torch.device("cpu"))
    SequenceScorer.load(str(tmp_path / "policy"), torch.device("cpu"), new_head=True)


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    make_scorer(tmp_path / "base").save(tmp_path / "reward")
    with pytest.raises(UserError, match="not a language model"):
        folders.load_model(AutoModelForCausalLM, str(tmp_path / "reward"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_files_are_found_before_the_run(name: str, tmp_path: Path) -> None:
    make_policy().save(tmp_path / "policy")
    folders.check_model_path(str(tmp_path / "policy"))
    file = tmp_path / "policy" / name
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="the file is damaged") as caught:
        folders.check_model_path(str(tmp_path / "policy"))
    assert caught.value.where == str(file)
