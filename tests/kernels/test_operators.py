"""The operators are registered as torch wants them: schema, shapes, gradients, and whole graphs for torch.compile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from alignkit.batches import Head
from alignkit.kl import KLTerm
from alignkit_kernels import chunks, library
from alignkit_kernels.vocabulary import VocabularyOps

N, H, V = 6, 8, 21


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 4 * V)


def tensors(requires_grad: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    h, weight, bias = torch.randn(N, H), torch.randn(V, H), torch.randn(V)
    return (*(x.requires_grad_(requires_grad) for x in (h, weight, bias)), torch.randint(0, V, (N,)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_linear_logprob(bias: bool, softcap: float | None) -> None:
    h, weight, b, y = tensors()
    opcheck(library.linear_logprob, ("torch", h, weight, b if bias else None, y, 0.7, 1.3, softcap, True))


def test_linear_kl() -> None:
    h, weight, b, _ = tensors()
    ref = torch.randn(N, 5), torch.randn(V, 5)
    opcheck(library.linear_kl, ("torch", h, weight, b, *ref, None, 0.7, 1.0, None, 1.0, 3.0))


@pytest.mark.parametrize("estimator", [None, "k3", "full"])
def test_linear_policy_loss(estimator: str | None) -> None:
    h, weight, b, y = tensors()
    advantages, weights, old, ref_logp = torch.randn(N), torch.rand(N), -torch.rand(N), -torch.rand(N)
    reference = (torch.randn(N, 5), torch.randn(V, 5)) if estimator == "full" else (None, None)
    arguments = (
        "torch", h, weight, b, y, advantages, weights, old, ref_logp if estimator == "k3" else None, *reference, None,
        0.7, 1.0, None, 1.0, None, 0.2, 0.3, 2.0, 0.1, 0.3, estimator, "corrected", 7,
    )  # fmt: skip
    # The gradients are outputs of the operator and are not differentiated again: its figures are given away detached.
    checks = ("test_schema", "test_faketensor")
    opcheck(library.linear_policy_loss, arguments, test_utils=checks)


def _logprob(ops: Any, h: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    logp, entropy = ops["linear_logprob"](h, Head(weight), y, 0.8, with_entropy=True)
    return (logp + entropy).mean()


def _loss(ops: Any, h: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    ones = torch.ones(len(h))
    term = KLTerm(0.2, "k2", "estimator")
    loss, figures = ops["fused_linear_policy_loss"](
        h, Head(weight), y, ones, ones / len(h), old_logp_N=-3 * ones, kl=term, ref_logp_N=-2 * ones
    )
    return loss + 0 * figures["entropy"].sum()


@pytest.mark.parametrize("function", [_logprob, _loss])
def test_compile_in_one_graph_with_any_number_of_tokens(function: Callable[..., Tensor]) -> None:
    ops = VocabularyOps("torch").implementations()
    compiled = torch.compile(lambda *inputs: function(ops, *inputs), fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (N, N + 3, 2):
        results = []
        for run in (compiled, lambda *inputs: function(ops, *inputs)):
            torch.manual_seed(n)
            h, weight = torch.randn(n, H).requires_grad_(), torch.randn(V, H).requires_grad_()
            loss = run(h, weight, torch.randint(0, V, (n,)))
            loss.backward()
            results.append([loss, h.grad, weight.grad])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)
