"""The Triton programs on a GPU: the same rule as everywhere, compiled graphs, memory, and sizes that only fit there."""

from dataclasses import replace

import pytest
import torch

from alignkit.batches import Head
from alignkit.ops import OPS
from alignkit.testing.kernel_cases import CASES, RUNS, Case, check
from alignkit_kernels import chunks
from alignkit_kernels.bench.measure import peak_bytes
from alignkit_kernels.triton_component import TritonKernel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
TRITON = TritonKernel().implementations()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cuda", 5 * 1003)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.usefixtures("small_chunks")
def test_error_is_that_of_the_eager_op(run: str, case: Case) -> None:
    check(TRITON, run, case, device="cuda")


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_real_vocabulary(run: str, dtype: torch.dtype) -> None:
    case = Case("151,936 ids", tokens=48, hidden=64, vocabulary=151_936, dtype=dtype)
    check(TRITON, run, case, device="cuda")


def test_more_elements_than_32_bits_count() -> None:
    """20,000 rows of 128,256: offsets beyond 2**31."""
    logits = torch.randn(20_000, 128_256, device="cuda", dtype=torch.bfloat16).requires_grad_()
    y = torch.randint(0, 128_256, (20_000,), device="cuda")
    logp, entropy, lse = TRITON["token_logprob"](logits, y)
    last = logits.detach()[-16:].requires_grad_()
    eager = OPS["token_logprob"](last, y[-16:])
    for found, gold in zip((logp, entropy, lse), eager, strict=True):
        torch.testing.assert_close(found[-16:], gold, rtol=1e-4, atol=1e-4)
    (logp + entropy).sum().backward()
    (eager[0] + eager[1]).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[-16:], last.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("length", [1, 17, 1024, 5000])
def test_gae(length: int) -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(64, length), torch.randn(64, length)
    mask = torch.arange(length)[None] < torch.randint(1, length + 1, (64, 1))
    gold = OPS["gae"](rewards.double(), values.double(), mask, 0.99, 0.95)
    for device in ("cpu", "cuda"):  # rollouts wait in main memory
        found = TRITON["gae"](rewards.to(device), values.to(device), mask.to(device), 0.99, 0.95)
        for truth, x in zip(gold, found, strict=True):
            assert x.device.type == device
            torch.testing.assert_close(x.cpu().double(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["policy_loss", "value_loss", "pairwise_loss"])
def test_losses(op: str) -> None:
    torch.manual_seed(0)
    x, y, z = (torch.randn(5000, device="cuda") for _ in range(3))
    rest = {
        "policy_loss": (y, z, 0.2, 0.3, 2.0),
        "value_loss": (y, z, 0.2),
        "pairwise_loss": (y, z.sigmoid(), z.abs(), z.square()),
    }[op]
    results = []
    for function in (OPS[op], TRITON[op]):
        leaf = x.clone().requires_grad_()
        found = function(leaf, *rest)
        loss = found[0] if isinstance(found, tuple) else found
        loss.sum().backward()
        results.append((loss.detach(), leaf.grad))
    for eager, found in zip(*results, strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-5, atol=1e-5)


def test_compile_in_one_graph() -> None:
    def loss(h: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(len(h), device=h.device)
        found: torch.Tensor = TRITON["fused_linear_policy_loss"](h, Head(weight), y, ones, ones / len(h))[0]
        return found

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for n in (64, 100):
        gradients = []
        for function in (loss, compiled):
            torch.manual_seed(n)
            h = torch.randn(n, 64, device="cuda", requires_grad=True)
            weight = torch.randn(5000, 64, device="cuda", requires_grad=True)
            function(h, weight, torch.randint(0, 5000, (n,), device="cuda")).backward()
            gradients.append((h.grad, weight.grad))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


def test_the_flagships_memory() -> None:
    """T=8192, H=4096, V=128256 in bfloat16: the float32 gradient, one chunk of logits, and no more."""
    t, hidden, v = 8192, 4096, 128_256
    h = torch.randn(t, hidden, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(v, hidden, device="cuda", dtype=torch.bfloat16) / 64).requires_grad_()
    y, ones = torch.randint(0, v, (t,), device="cuda"), torch.ones(t, device="cuda")

    def step() -> list[torch.Tensor]:
        loss, _ = TRITON["fused_linear_policy_loss"](h, Head(weight), y, ones, ones / t)
        return list(torch.autograd.grad(loss, [h, weight]))

    step()
    assert peak_bytes(step, torch.device("cuda")) <= 3.4e9


def test_the_same_each_time() -> None:
    from alignkit.testing.kernel_cases import Inputs

    case = replace(CASES[0], tokens=200, vocabulary=20_000, dtype=torch.bfloat16)
    run = RUNS["fused, full KL and entropy"]
    first, second = (run(TRITON["fused_linear_policy_loss"], Inputs(case, device="cuda")) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
