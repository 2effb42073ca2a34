"""A training step needs less memory with the chunked ops, and learns the same."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from alignkit.manager import PluginManager
from alignkit.ops import choose_ops
from alignkit.training.tokens import accumulate_token_loss
from alignkit_kernels import chunks
from alignkit_kernels.bench.measure import peak_bytes
from helpers.context import make_context
from helpers.models import make_policy, random_rows
from helpers.ppo import make_experience, make_loop

VOCABULARY = 20_000
CHUNK = 2**18
TOKENS = 8 * 40


def context_with(kernels: str) -> Any:
    manager = PluginManager()
    manager.load()
    return replace(make_context(manager=manager), ops=choose_ops(manager, kernels, torch.device("cpu")))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", CHUNK)


def test_maximum_likelihood() -> None:
    peaks, gradients = {}, {}
    for kernels in ("eager", "chunked"):
        policy = make_policy("llama")
        torch.manual_seed(0)
        policy.module.resize_token_embeddings(VOCABULARY)
        rows = random_rows(300, [TOKENS // 8] * 8)
        context = context_with(kernels)
        peaks[kernels] = peak_bytes(partial(accumulate_token_loss, policy, rows, 10**6, context), context.device)
        gradients[kernels] = [p.grad for p in policy.module.parameters()]
    logits = 4 * TOKENS * VOCABULARY
    assert peaks["eager"] > 2 * logits
    assert peaks["chunked"] < 0.6 * logits
    for a, b in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_ppo() -> None:
    peaks, weights = {}, {}
    for kernels in ("eager", "chunked"):
        loop = make_loop(context_with(kernels), ppo={"epochs": 1, "minibatches": 1, "micro_batch_tokens": 10**6})
        experience = make_experience(loop)
        for model in (loop.policy, loop.reference):
            torch.manual_seed(0)
            model.module.resize_token_embeddings(VOCABULARY, mean_resizing=False)  # type: ignore[attr-defined]
        loop.stage.start(loop.policy, loop.reference, loop.critic, 1, loop.context)
        peaks[kernels] = peak_bytes(partial(loop.stage.update, experience), loop.context.device)
        weights[kernels] = [p.detach().clone() for p in loop.policy.module.parameters()]
    assert peaks["chunked"] < 0.7 * peaks["eager"]
    for a, b in zip(*weights.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)
