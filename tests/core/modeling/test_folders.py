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


def test_damaged_weights(tmp_path: Path) -> None:
    make_policy().save(tmp_path / "policy")
    weights = tmp_path / "policy/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load the model"):
        folders.load_model(AutoModelForCausalLM, str(tmp_path / "policy"))
