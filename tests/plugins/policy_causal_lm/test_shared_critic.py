"""A critic on the policy's trunk: only a head, whose gradient reaches the trunk, saved as a whole classifier."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from alignkit.engine.precision import mixed_precision
from alignkit.errors import UserError
from alignkit.protocols import Critic, SharesTrunk
from alignkit_plugins.policy_causal_lm.critic import SharedCritic
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from helpers.models import batch_of, gradients, random_rows

KINDS = ["llama", "gpt2"]
OPTIONS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"lora": {"rank": 4, "alpha": 8}}}
Build = Callable[..., CausalLM]
Train = Callable[[CausalLM], None]


def shared(policy: CausalLM) -> SharedCritic:
    critic = policy.critic(None, shared=True)
    assert isinstance(critic, SharedCritic)
    return critic


def with_values(policy: CausalLM) -> SharedCritic:
    """A critic whose head is not zero any more."""
    critic = shared(policy)
    torch.manual_seed(1)
    torch.nn.init.normal_(critic.module.weight)
    return critic


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_zero_float32_head(kind: str, build: Build) -> None:
    policy = build(kind, dtype="bfloat16")
    critic = shared(policy)
    assert isinstance(critic, Critic)
    assert isinstance(critic, SharesTrunk)
    assert [(n, tuple(p.shape), p.dtype) for n, p in critic.module.named_parameters()] == [
        ("weight", (1, 32), torch.float32)
    ]
    values_N = critic.values(batch_of(policy, random_rows(300, [9, 14])))
    assert values_N.dtype == torch.float32
    assert torch.equal(values_N, torch.zeros(7 + 12))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", sorted(OPTIONS))
def test_values_are_the_head_on_the_policys_states_and_train_the_trunk(kind: str, options: str, build: Build) -> None:
    policy = build(kind, **OPTIONS[options])
    critic = with_values(policy)
    batch = batch_of(policy, random_rows(300, [9, 14]))
    h_NH, _ = policy.hidden(batch)
    assert torch.equal(critic.values(batch), critic.values_of(h_NH))
    assert torch.allclose(critic.values_of(h_NH).double(), (h_NH.double() @ critic.module.weight.double().T)[:, 0])
    found = gradients(policy.module, lambda: critic.values_of(policy.hidden(batch)[0]).sum().backward())
    assert any(bool(g.any()) for g in found.values())
    assert critic.module.weight.grad is not None


def test_the_head_stays_float32_under_autocast(build: Build) -> None:
    policy = build()
    critic = with_values(policy)
    h_NH = torch.randn(5, 32)
    with mixed_precision(policy.device, "bfloat16"):
        values_N, rounded_N = critic.values_of(h_NH), critic.module(h_NH)[:, 0]
    expected_N = (h_NH.double() @ critic.module.weight.double().T)[:, 0]
    assert torch.allclose(values_N.double(), expected_N, atol=1e-5)
    assert not torch.allclose(rounded_N.double(), expected_N, atol=1e-4), "autocast must have been on"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", sorted(OPTIONS))
def test_what_is_saved_is_a_classifier_with_the_same_values(
    kind: str, options: str, build: Build, train: Train, tmp_path: Path
) -> None:
    policy = build(kind, **OPTIONS[options])
    critic = with_values(policy)
    train(policy)
    batch = batch_of(policy, random_rows(300, [12]))
    with torch.no_grad():
        values_N = critic.values(batch)
        critic.save(tmp_path / "critic")
        module, info = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "critic", output_loading_info=True, num_labels=1
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        states = module.base_model(batch.ids_BT).last_hidden_state
        assert torch.allclose(module.score(batch.select(states)).squeeze(-1), values_N, atol=1e-3)
    again = build(kind).critic(tmp_path / "critic", keep_head=True)
    assert torch.allclose(again.values(batch), values_N, atol=1e-3)


def test_it_has_no_first_model_of_its_own(build: Build, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no first model of its own"):
        build().critic(tmp_path, shared=True)
