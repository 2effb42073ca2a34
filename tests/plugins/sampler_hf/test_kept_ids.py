"""Under top-k and top-p the kept ids are replayed: log-probs are those of what was sampled from (checklist point 1)."""

import math
from typing import Any

import pytest
import torch

from alignkit.loop.logprobs import rollout_logprobs
from alignkit.ops.linear_logprob import linear_logprob
from alignkit.records import Prompt, Sampling
from alignkit_kernels.vocabulary import VocabularyOps
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.models import make_policy

TEXTS = ["the quiet film", "a", "this thriller about two brothers", "I recommend it", "families"]
RESTRICTED = [
    Sampling(max_length=8, top_k=5),
    Sampling(max_length=8, top_p=0.6),
    Sampling(max_length=8, top_k=20, top_p=0.8, temperature=0.7),
]


def roll_out(policy: Any, sampling: Sampling, batch_size: int = 2) -> Any:
    return HFSampler(batch_size).rollout(policy, [Prompt(prompt=t) for t in TEXTS], sampling, 1)


@pytest.mark.parametrize("sampling", RESTRICTED)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_trainers_log_probs_are_the_samplers(context: Any, kind: str, sampling: Sampling) -> None:
    policy = make_policy(kind)
    rollout = roll_out(policy, sampling)
    own = rollout_logprobs(policy, rollout, context.ops, 64)
    assert torch.allclose(own, rollout.sampler_logp_BT, atol=1e-3)
    assert (own[rollout.mask_BT] < -0.01).any()
    whole = rollout_logprobs(policy, rollout_without_kept(rollout), context.ops, 64)
    assert (own - whole).max() > 0.05  # the restricted distribution gives the drawn token more


def rollout_without_kept(rollout: Any) -> Any:
    from dataclasses import replace

    return replace(rollout, kept_BTK=None)


@pytest.mark.parametrize("sampling", RESTRICTED)
def test_another_model_is_read_on_the_same_ids(context: Any, sampling: Sampling) -> None:
    policy, other = make_policy("llama"), make_policy("llama", seed=5)
    rollout = roll_out(policy, sampling)
    found = rollout_logprobs(other, rollout, context.ops, 10**6)
    for b, (prompt, completion) in enumerate(zip(rollout.prompt_ids, rollout.completion_ids, strict=True)):
        with torch.no_grad():
            logits = other.module(torch.tensor([prompt + completion])).logits[0].double() / sampling.temperature
        for t, token in enumerate(completion):
            kept = [i for i in rollout.kept_BTK[b, t].tolist() if i >= 0]
            assert token in kept
            assert len(set(kept)) == len(kept)
            z = logits[len(prompt) + t - 1]
            expected = float(z[token]) - math.log(sum(math.exp(float(z[i])) for i in kept))
            assert float(found[b, t]) == pytest.approx(expected, abs=1e-3)
    assert (rollout.kept_BTK[~rollout.mask_BT] == -1).all()


def test_the_whole_distribution_keeps_nothing(llama: Any) -> None:
    assert roll_out(llama, Sampling(max_length=4)).kept_BTK is None
    assert roll_out(llama, Sampling(max_length=4, temperature=0)).kept_BTK is None


def test_gradient_and_entropy_are_those_of_the_kept_ids() -> None:
    torch.manual_seed(0)
    from alignkit.batches import Head

    weight = torch.randn(11, 4, dtype=torch.float64)
    kept = torch.tensor([[2, 5, 7], [1, 0, -1]])
    targets = torch.tensor([5, 0])
    for op in (linear_logprob, VocabularyOps("torch").linear_logprob):
        h = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        logp, entropy = op(h, Head(weight), targets, 0.7, with_entropy=True, kept_NK=kept)
        (logp.sum() + entropy.sum()).backward()
        plain = h.detach().clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for n, ids in enumerate(([2, 5, 7], [1, 0])):
            p = torch.softmax(plain[n] @ weight[ids].T / 0.7, -1)
            total = total + p[ids.index(int(targets[n]))].log() - (p * p.log()).sum()
        total.backward()
        assert float((logp.sum() + entropy.sum()).detach()) == pytest.approx(float(total.detach()), rel=1e-5)
        assert plain.grad is not None
        assert torch.allclose(h.grad, plain.grad, atol=1e-5)  # type: ignore[arg-type]
