"""The chunked ops against the eager references in float64, with chunks of a few tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.batches import Head
from alignkit.ops import OPS
from alignkit.testing.kernel_cases import CASES, RUNS, Case, Inputs, check
from alignkit_kernels import chunks
from alignkit_kernels.bench.measure import peak_bytes
from alignkit_kernels.vocabulary import VocabularyOps

CHUNKED = VocabularyOps("torch").implementations()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tokens of 1003 in a chunk: the last is shorter, and one token is a chunk of its own."""
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 5 * 1003)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("run", RUNS)
def test_error_is_that_of_the_eager_op(run: str, case: Case) -> None:
    check(CHUNKED, run, case)


@pytest.mark.parametrize("frozen", ["h", "weight", "bias"])
@pytest.mark.parametrize("op", ["linear_logprob", "fused_linear_policy_loss"])
def test_what_needs_no_gradient_gets_none_and_changes_nothing(op: str, frozen: str) -> None:
    run = RUNS["linear_logprob" if op == "linear_logprob" else "fused, k3 and entropy"]
    everything = run(CHUNKED[op], Inputs(CASES[0]))
    inputs = Inputs(CASES[0])
    getattr(inputs, frozen).requires_grad_(False)
    found = run(CHUNKED[op], inputs)
    left_out = {"h": "dh", "weight": "dW", "bias": "db"}[frozen]
    assert left_out not in found
    assert all(torch.equal(everything[name], x) for name, x in found.items())


def test_no_token_at_all() -> None:
    h, head = torch.randn(0, 8, requires_grad=True), Head(torch.randn(11, 8, requires_grad=True))
    none = torch.zeros(0, dtype=torch.long)
    logp, entropy = CHUNKED["linear_logprob"](h, head, none, with_entropy=True)
    loss, figures = CHUNKED["fused_linear_policy_loss"](h, head, none, logp.detach(), logp.detach())
    (logp.sum() + entropy.sum() + loss).backward()
    assert head.weight_VH.grad is not None
    assert not head.weight_VH.grad.any()
    assert all(x.shape == (0,) for x in figures.values())


def test_equal_to_the_eager_op_among_kept_ids() -> None:
    case = CASES[0]
    results = []
    for op in (OPS["linear_logprob"], CHUNKED["linear_logprob"]):
        inputs = Inputs(case)
        kept = torch.cat([inputs.targets[:, None], torch.arange(6).expand(len(inputs.targets), 6)], 1)
        kept[inputs.targets < 6, 0] = -1
        logp, entropy = op(inputs.h, inputs.head, inputs.targets, 0.9, with_entropy=True, kept_NK=kept)
        (logp.sum() + entropy.square().sum()).backward()
        results.append([logp, entropy, *inputs.gradients().values()])
    for eager, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["linear_logprob", "fused_linear_policy_loss"])
def test_autocast_around_the_op_does_not_narrow_what_is_inside(op: str) -> None:
    run = RUNS["linear_logprob" if op == "linear_logprob" else "fused, clip only"]
    plain = run(CHUNKED[op], Inputs(CASES[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(CHUNKED[op], Inputs(CASES[0]))
    assert all(torch.equal(plain[name], x) for name, x in inside.items())


def test_small_weights_do_not_underflow_in_float16() -> None:
    """A token's share of a large batch times a probability is below what float16 holds; the sum over tokens is not."""
    torch.manual_seed(0)
    h, weight = torch.rand(2048, 8).half(), torch.randn(64, 8).half()
    targets, shares = torch.randint(0, 64, (2048,)), torch.full((2048,), 2.0**-19)

    def gradient(op: Callable[..., Any], dtype: torch.dtype) -> Tensor:
        leaf = weight.to(dtype).requires_grad_()
        ones = torch.ones(2048, dtype=torch.promote_types(dtype, torch.float32))
        loss, _ = op(h.to(dtype), Head(leaf), targets, ones, ones * shares)
        loss.backward()
        assert leaf.grad is not None
        return leaf.grad.double()

    gold = gradient(OPS["fused_linear_policy_loss"], torch.float64)
    chunked, eager = (gradient(ops["fused_linear_policy_loss"], torch.float16) - gold for ops in (CHUNKED, OPS))
    assert chunked.norm() < 0.01 * gold.norm()
    assert eager.norm() > 0.1 * gold.norm()


def test_a_few_tokens_of_a_large_head_take_its_gradient_twice_at_most() -> None:
    """Once as it adds up and once as it is given away: nothing else may be as large as the projection."""
    head = Head(torch.randn(4000, 512, requires_grad=True))
    h, ones = torch.randn(8, 512, requires_grad=True), torch.ones(8)

    def step() -> list[Tensor]:
        loss, _ = CHUNKED["fused_linear_policy_loss"](h, head, torch.arange(8), ones, ones / 8)
        return list(torch.autograd.grad(loss, [h, head.weight_VH]))

    assert peak_bytes(step, torch.device("cpu")) < 2.2 * 4 * 4000 * 512


def test_a_bonus_of_zero_does_not_meet_an_entropy_that_is_no_number() -> None:
    bias = torch.zeros(11)
    bias[3] = -float("inf")
    h, ones = torch.randn(4, 8), torch.ones(4)
    for ops in (OPS, CHUNKED):
        loss, _ = ops["fused_linear_policy_loss"](
            h, Head(torch.randn(11, 8), bias), torch.tensor([0, 1, 2, 4]), ones, ones
        )
        assert torch.isfinite(loss)


@pytest.mark.parametrize("tokens", [1, 63, 64, 150])
def test_products_of_few_shapes_give_the_same(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added to a chunk for its length leaves values, gradients and shapes as they are."""
    torch.manual_seed(0)
    h_NH, weight_VH = torch.randn(tokens, 8), torch.randn(200, 8)
    targets_N, weights_N = torch.randint(200, (tokens,)), torch.rand(tokens)
    advantages_N, old_N = torch.randn(tokens), torch.randn(tokens) - 5

    def run() -> list[torch.Tensor]:
        ops = VocabularyOps("torch")
        h, weight = h_NH.clone().requires_grad_(), weight_VH.clone().requires_grad_()
        loss, figures = ops.fused_linear_policy_loss(
            h, Head(weight), targets_N, advantages_N, weights_N, old_logp_N=old_N, entropy_coef=0.1
        )
        logp_N, entropy_N = ops.linear_logprob(h, Head(weight), targets_N, with_entropy=True)
        total = loss + (logp_N * weights_N).sum() + (entropy_N * advantages_N).sum()
        return [loss, *figures.values(), logp_N, entropy_N, *torch.autograd.grad(total, (h, weight))]

    expected = run()
    monkeypatch.setattr(chunks, "few_shapes", lambda weight_VH: True)
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 200 * 70)
    for found, wanted in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
