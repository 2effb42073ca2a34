"""The chunked op is the eager op: same values and gradients, without the logits of all tokens at once."""

import pytest
import torch
from torch import Tensor

from alignkit.batches import Head
from alignkit.manager import PluginManager
from alignkit.ops import choose_ops, linear_logprob
from alignkit_kernels.chunked import chunked_linear_logprob

N, H, V = 37, 8, 53


def inputs() -> tuple[Tensor, Head, Tensor]:
    torch.manual_seed(0)
    h_NH = torch.randn(N, H, dtype=torch.float64, requires_grad=True)
    weight_VH = torch.randn(V, H, dtype=torch.float64, requires_grad=True)
    bias_V = torch.randn(V, dtype=torch.float64, requires_grad=True)
    return h_NH, Head(weight_VH, bias_V, softcap=3.0), torch.randint(0, V, (N,))


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 100])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_equals_the_eager_op(chunk: int, with_entropy: bool) -> None:
    results = []
    for function in (linear_logprob, chunked_linear_logprob):
        h_NH, head, y_N = inputs()
        extra = {"chunk_tokens": chunk} if function is chunked_linear_logprob else {}
        logp_N, entropy_N = function(h_NH, head, y_N, 0.7, with_entropy, **extra)
        (logp_N.sum() + 0.3 * entropy_N.square().sum()).backward()
        assert head.bias_V is not None
        results.append([logp_N, entropy_N, h_NH.grad, head.weight_VH.grad, head.bias_V.grad])
    for eager, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, eager, rtol=1e-5, atol=1e-6)


def test_saved_memory_is_smaller_than_the_logits() -> None:
    """Counts what autograd keeps between forward and backward."""
    saved = {}
    for function in (linear_logprob, chunked_linear_logprob):
        h_NH, head, y_N = inputs()
        extra = {"chunk_tokens": 5} if function is chunked_linear_logprob else {}
        numbers = [0]

        def pack(x: Tensor, numbers: list[int] = numbers) -> Tensor:
            numbers[0] += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            function(h_NH, head, y_N, **extra)
        saved[function.__name__] = numbers[0]
    assert saved["linear_logprob"] > N * V
    assert saved["chunked_linear_logprob"] < N * V


def test_a_recipe_can_choose_it() -> None:
    manager = PluginManager()
    manager.load_entry_points()
    ops = choose_ops(manager, "chunked", torch.device("cpu"))
    assert ops.linear_logprob is chunked_linear_logprob
    assert ops.choice["linear_logprob"] == "chunked"
    assert ops.choice["gae"] == "eager"
