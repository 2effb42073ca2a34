"""Gradient checkpointing saves less and changes no gradient, in evaluation mode too, where transformers' own is off."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from alignkit.batches import Row
from alignkit.errors import UserError
from alignkit.modeling.backbone import checkpointed_layers, decoder_layers
from alignkit.records import Prompt, Sampling
from alignkit_plugins.policy_causal_lm import policy as policy_module
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.models import assert_same_gradients, batch_of, gradients, random_rows

KINDS = ["llama", "gpt2"]
OPTIONS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}}
Build = Callable[..., CausalLM]


def saved_numbers(policy: CausalLM, batch: Any) -> int:
    """Numbers that autograd keeps between forward and backward, weights left out."""
    own = {p.data_ptr() for p in policy.module.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            seen[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = policy.hidden(batch)[0].square().sum()
    del loss
    return sum(seen.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", sorted(OPTIONS))
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_without_it(kind: str, options: str, training: bool, build: Build) -> None:
    found = []
    for on in (False, True):
        policy = build(kind, dropout=0.3, gradient_checkpointing=on, **OPTIONS[options])
        with torch.no_grad():
            for parameter in policy.module.parameters():
                if parameter.requires_grad and options == "lora":
                    parameter.add_(0.1)  # B starts at zero, which would hide A's gradients
        policy.module.train(training)
        batch = batch_of(policy, random_rows(300, [9, 14]))
        torch.manual_seed(0)
        found.append(gradients(policy.module, lambda: policy.hidden(batch)[0].square().sum().backward()))  # noqa: B023
    assert_same_gradients(*found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", sorted(OPTIONS))
@pytest.mark.parametrize("training", [False, True])
def test_it_saves_less(kind: str, options: str, training: bool, build: Build) -> None:
    numbers = {}
    for on in (False, True):
        policy = build(kind, gradient_checkpointing=on, **OPTIONS[options])
        policy.module.train(training)
        numbers[on] = saved_numbers(policy, batch_of(policy, random_rows(300, [60, 60])))
    assert numbers[True] < 0.5 * numbers[False]


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_stays_off_in_evaluation_mode(kind: str, build: Build) -> None:
    policy = build(kind, dropout=0.5, gradient_checkpointing=True)
    batch = batch_of(policy, random_rows(300, [9, 14]))
    policy.module.eval()
    assert torch.equal(policy.hidden(batch)[0], policy.hidden(batch)[0])
    policy.module.train()
    assert not torch.equal(policy.hidden(batch)[0], policy.hidden(batch)[0])


def test_the_layers_are_left_as_they_were_and_copies_run_their_own(build: Build) -> None:
    policy = build(gradient_checkpointing=True)
    layers = decoder_layers(policy.module.base_model)
    assert len(layers) == 2
    out_of_range = batch_of(policy, [Row([10**6, 10**6], [False, True])])
    with pytest.raises(IndexError):
        policy.hidden(out_of_range)
    with checkpointed_layers(policy.module.base_model):
        assert all("forward" in vars(layer) for layer in layers)
    assert not any("forward" in vars(layer) for layer in layers)
    batch = batch_of(policy, random_rows(300, [9, 14]))
    before = policy.hidden(batch)[0]
    other = copy.deepcopy(policy.module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(policy.hidden(batch)[0], before)


def test_a_critic_of_its_own_is_checkpointed_too(build: Build) -> None:
    numbers = {}
    for on in (False, True):
        critic = build(gradient_checkpointing=on).critic(None)
        policy = build()
        batch = batch_of(policy, random_rows(300, [60, 60]))
        policy.module, policy.hidden = critic.module, lambda b, c=critic: (c.values(b), None)  # type: ignore[assignment,method-assign,misc]
        numbers[on] = saved_numbers(policy, batch)
    assert numbers[True] < 0.5 * numbers[False]


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_keeps_its_cache(kind: str, build: Build) -> None:
    prompts = [Prompt(prompt="the quiet film"), Prompt(prompt="this")]
    found = []
    for on in (False, True):
        policy = build(kind, gradient_checkpointing=on)
        policy.module.train()
        found.append(HFSampler(2).rollout(policy, prompts, Sampling(max_length=8), seed=1))
    assert found[0].completion_ids == found[1].completion_ids


def test_a_model_without_such_layers_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "decoder_layers", lambda module: [])
    with pytest.raises(UserError, match="no layers that can be computed again"):
        build(gradient_checkpointing=True)
