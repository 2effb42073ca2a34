"""Values and gradients against the eager reference in float64, and who computes what."""

import logging
from itertools import product
from typing import Any

import pytest
import torch
from alignkit.batches import Head
from alignkit.ops import linear_logprob as eager
from cut_cross_entropy import linear_cross_entropy
from torch import Tensor

import alignkit_cce.cce
from alignkit_cce.cce import CutCrossEntropy

N, H, V = 33, 16, 203


def inputs(dtype: torch.dtype = torch.float32, device: str = "cpu", **head: Any) -> tuple[Tensor, Head, Tensor]:
    """Hidden states, projection and targets, the same each time, as leaves."""
    generator = torch.Generator().manual_seed(0)
    h_NH = torch.randn(N, H, generator=generator).to(device, dtype).requires_grad_()
    weight_VH = torch.randn(V, H, generator=generator).to(device, dtype).requires_grad_()
    return h_NH, Head(weight_VH, **head), torch.randint(V, (N,), generator=generator).to(device)


def in_float64(h_NH: Tensor, head: Head, targets_N: Tensor) -> tuple[Tensor, Head, Tensor]:
    """The same numbers."""
    bias_V = None if head.bias_V is None else head.bias_V.double()
    weight_VH = head.weight_VH.detach().double().requires_grad_()
    return h_NH.detach().double().requires_grad_(), head._replace(weight_VH=weight_VH, bias_V=bias_V), targets_N


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which implementation of the library each call to it asked for."""
    seen: list[str] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(options["impl"])
        return linear_cross_entropy(*arguments, **options)

    monkeypatch.setattr(alignkit_cce.cce, "linear_cross_entropy", watched)
    return seen


def compare(given: tuple[Tensor, Head, Tensor], temperature: float, tolerance: float) -> None:
    """Log-probs, and gradients of a weighted sum of them, against the eager reference in float64."""
    truth = in_float64(*given)
    slope_N = torch.randn(N, generator=torch.Generator().manual_seed(1)).to(given[0].device)
    logp_N, entropy_N = CutCrossEntropy().linear_logprob(*given, temperature=temperature)
    expected_N, _ = eager(*truth, temperature=temperature)
    assert logp_N.dtype == torch.float32
    assert not entropy_N.any()
    torch.testing.assert_close(logp_N.double(), expected_N, atol=tolerance, rtol=tolerance)
    found = torch.autograd.grad((logp_N * slope_N).sum(), (given[0], given[1].weight_VH))
    expected = torch.autograd.grad((expected_N * slope_N).sum(), (truth[0], truth[1].weight_VH))
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), right, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("head", [{}, {"softcap": 3.0}, {"scale": 0.5}, {"softcap": 3.0, "scale": 2.0}])
def test_equals_the_reference(calls: list[str], head: dict[str, Any], temperature: float) -> None:
    compare(inputs(**head), temperature, 1e-5)
    assert calls == ["torch_compile"]


def test_without_gradient(calls: list[str]) -> None:
    h_NH, head, targets_N = inputs()
    with torch.no_grad():
        logp_N, _ = CutCrossEntropy().linear_logprob(h_NH, head, targets_N)
    assert not logp_N.requires_grad
    torch.testing.assert_close(logp_N, eager(h_NH, head, targets_N)[0].detach())
    assert calls == ["torch_compile"]


def test_autocast_does_not_round_the_logits(calls: list[str]) -> None:
    h_NH, head, targets_N = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp_N, _ = CutCrossEntropy().linear_logprob(h_NH, head, targets_N)
    torch.testing.assert_close(logp_N, eager(h_NH, head, targets_N)[0], atol=1e-5, rtol=1e-5)
    assert calls == ["torch_compile"]


@pytest.mark.parametrize("case", ["entropy", "kept", "bias", "float64", "bfloat16", "one token", "no token"])
def test_the_rest_is_eager(calls: list[str], caplog: pytest.LogCaptureFixture, case: str) -> None:
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    h_NH, head, targets_N = inputs(dtype, bias_V=torch.randn(V) if case == "bias" else None)
    rows = {"one token": 1, "no token": 0}.get(case, N)
    options: dict[str, Any] = {"with_entropy": case == "entropy"}
    if case == "kept":
        options["kept_NK"] = torch.stack([targets_N, (targets_N + 1) % V], dim=1)
    kernel = CutCrossEntropy()
    with caplog.at_level(logging.INFO, logger="alignkit"):
        for _ in range(2):
            found = kernel.linear_logprob(h_NH[:rows], head, targets_N[:rows], 0.7, **options)
    expected = eager(h_NH[:rows], head, targets_N[:rows], 0.7, **options)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert calls == []
    assert len([r for r in caplog.records if "goes to the eager reference" in r.message]) == 1


def test_no_call_meets_the_limit_of_variants() -> None:
    """The library refuses to go on when torch.compile may make no more of them; a process meets all of these."""
    kernel = CutCrossEntropy()
    for hidden, vocabulary, softcap in [(8, 40, None), (12, 12, None), (16, 300, 2.0), (40, 40, 5.0)]:
        for tokens, wanted, parameter in product((2, hidden), ("hw", "h", "w", ""), (True, False)):
            h_NH = torch.randn(tokens, hidden, requires_grad="h" in wanted)
            weight_VH = torch.randn(vocabulary, hidden, requires_grad="w" in wanted)
            if parameter:
                weight_VH = torch.nn.Parameter(weight_VH.detach(), requires_grad="w" in wanted)
            given = h_NH, Head(weight_VH, softcap=softcap), torch.randint(vocabulary, (tokens,))
            torch.testing.assert_close(kernel.linear_logprob(*given)[0], eager(*given)[0], atol=1e-5, rtol=1e-5)


def test_says_where_it_cannot_run() -> None:
    assert CutCrossEntropy().unavailable(torch.device("cpu")) is None
    assert "meta" in str(CutCrossEntropy().unavailable(torch.device("meta")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head", [{}, {"softcap": 3.0, "scale": 2.0}])
def test_triton_equals_the_reference(calls: list[str], head: dict[str, Any]) -> None:
    compare(inputs(torch.bfloat16, "cuda", **head), 0.7, 5e-2)
    assert calls == ["cce"]
