"""A reference is the policy as it was: bit for bit, in evaluation mode, and with LoRA without a second model."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from alignkit.loop.logprobs import rollout_logprobs
from alignkit.protocols import Policy
from alignkit.records import Prompt, Sampling
from alignkit_plugins.policy_causal_lm.adapter_off import AdapterOff
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.context import make_rollout
from helpers.models import batch_of, gradients, plain_logps, random_rows

LORA = {"rank": 4, "alpha": 8}
KINDS = ["llama", "gpt2"]
Build = Callable[..., CausalLM]
Train = Callable[[CausalLM], None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"lora": LORA}], ids=["full", "lora"])
def test_log_probs_stay_exactly_the_base_models(
    kind: str, options: dict[str, Any], build: Build, train: Train, context: Any
) -> None:
    plain, policy = build(kind), build(kind, **options)
    reference = policy.reference()
    assert isinstance(reference, Policy)
    rollout = make_rollout(policy, ["the quiet film", "this"], [[20, 30, 40, 2], [50, 60]])
    expected_BT = rollout_logprobs(plain, rollout, context.ops, 10**6)
    assert torch.equal(rollout_logprobs(reference, rollout, context.ops, 10**6), expected_BT)
    train(policy)
    assert torch.equal(rollout_logprobs(reference, rollout, context.ops, 10**6), expected_BT)
    trained_BT = rollout_logprobs(policy, rollout, context.ops, 10**6)
    assert float((trained_BT - expected_BT).abs().max()) > 0.1
    train(policy)
    assert float((rollout_logprobs(policy, rollout, context.ops, 10**6) - trained_BT).abs().max()) > 0.01, (
        "the adapter must still train after the reference was read"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_with_lora_the_weights_are_shared_without_it_copied_and_frozen(kind: str, build: Build) -> None:
    policy = build(kind, lora=LORA)
    reference = policy.reference()
    assert isinstance(reference.module, AdapterOff)
    assert reference.head.weight_VH.data_ptr() == policy.head.weight_VH.data_ptr()
    assert not list(reference.module.parameters())
    assert reference.reference() is reference
    copied = build(kind).reference().module
    assert not any(p.requires_grad for p in copied.parameters())
    assert not copied.training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"lora": {**LORA, "dropout": 0.5}}], ids=["full", "lora"])
def test_the_reference_is_in_evaluation_mode_while_the_policy_trains_with_dropout(
    kind: str, options: dict[str, Any], build: Build
) -> None:
    policy = build(kind, dropout=0.5, **options)
    reference = policy.reference()
    batch = batch_of(policy, random_rows(300, [9, 14]))
    with torch.no_grad():
        expected_NH = reference.hidden(batch)[0]
        policy.module.train()
        policy.module.base_model.eval()  # an uneven state has to come back as it was
        modes = [m.training for m in policy.module.modules()]
        assert torch.equal(reference.hidden(batch)[0], expected_NH)
        reference.module.eval()
        assert [m.training for m in policy.module.modules()] == modes
        policy.module.train()
        assert torch.equal(reference.hidden(batch)[0], expected_NH)
        assert policy.module.training
        assert not torch.equal(policy.hidden(batch)[0], policy.hidden(batch)[0]), "the policy's dropout is still on"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_reading_the_reference_between_forward_and_backward_changes_no_gradient(
    checkpointing: bool, build: Build, train: Train
) -> None:
    policy = build(lora=LORA, gradient_checkpointing=checkpointing)
    reference = policy.reference()
    train(policy)
    batch = batch_of(policy, random_rows(300, [9, 14]))

    def backward(between: bool) -> None:
        loss = policy.hidden(batch)[0].square().sum()
        if between:
            with torch.no_grad():
                reference.hidden(batch)
        loss.backward()

    without = gradients(policy.module, lambda: backward(False))
    with_it = gradients(policy.module, lambda: backward(True))
    assert len(without) == 2 * 14
    assert without.keys() == with_it.keys()
    assert all(torch.equal(without[n], with_it[n]) for n in without)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_can_be_sampled(kind: str, build: Build, train: Train) -> None:
    plain, policy = build(kind), build(kind, lora=LORA)
    reference = policy.reference()
    train(policy)
    policy.module.train()
    prompts = [Prompt(prompt="the quiet film"), Prompt(prompt="this")] * 2
    wanted = HFSampler(4).rollout(plain, prompts, Sampling(max_length=8), seed=1)
    found = HFSampler(4).rollout(reference, prompts, Sampling(max_length=8), seed=1)
    assert found.completion_ids == wanted.completion_ids
    assert torch.equal(found.sampler_logp_BT, wanted.sampler_logp_BT)  # type: ignore[arg-type]
    assert policy.module.training
    other = HFSampler(4).rollout(policy, prompts, Sampling(max_length=8), seed=1)
    assert other.completion_ids != wanted.completion_ids


def test_a_trained_adapter_is_part_of_the_policy_as_it_is_now(build: Build, train: Train) -> None:
    policy = build(lora=LORA)
    train(policy)
    reference = policy.reference()
    ids = random_rows(300, [12])[0].ids
    expected = plain_logps(policy, ids)
    assert torch.equal(plain_logps(reference, ids), expected)
    assert not any(p.requires_grad for p in reference.module.parameters())
    train(policy)
    assert not torch.equal(plain_logps(policy, ids), expected)
    assert torch.equal(plain_logps(reference, ids), expected)


def test_a_view_saves_and_judges_by_the_base_model(build: Build, train: Train, tmp_path: Any) -> None:
    plain, policy = build(), build(lora=LORA)
    reference = policy.reference()
    train(policy)
    reference.save(tmp_path / "m")
    assert not (tmp_path / "m/adapter").exists()
    plain.save(tmp_path / "p")
    assert (tmp_path / "m/model.safetensors").read_bytes() == (tmp_path / "p/model.safetensors").read_bytes()
    batch = batch_of(policy, random_rows(300, [9]))
    critic = reference.critic(None)
    with torch.no_grad():
        states = critic.module.eval().base_model(batch.ids_BT).last_hidden_state
        assert torch.allclose(batch.select(states), reference.hidden(batch)[0], atol=1e-5)
    with pytest.raises(TypeError):
        copy.deepcopy(reference.module)
