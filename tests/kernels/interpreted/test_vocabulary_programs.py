"""The Triton ops over the vocabulary against the eager references in float64."""

import pytest
import torch

from alignkit.batches import Head
from alignkit.ops import OPS
from alignkit.testing.kernel_cases import CASES, RUNS, Case, Inputs, check, small
from alignkit_kernels import chunks, triton_rows
from alignkit_kernels.triton_component import TritonKernel
from alignkit_kernels.vocabulary import VocabularyOps

TRITON = TritonKernel().implementations()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tokens in a chunk, and rows of several blocks."""
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 5 * 1003)
    monkeypatch.setattr(triton_rows, "STATISTICS_BLOCK", 512)
    monkeypatch.setattr(triton_rows, "GRADIENT_BLOCK", 512)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("run", RUNS)
def test_error_is_that_of_the_eager_op(run: str, case: Case) -> None:
    check(TRITON, run, small(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_logprob(dtype: torch.dtype) -> None:
    results = []
    for op, precision in ((OPS["token_logprob"], torch.float64), (TRITON["token_logprob"], dtype)):
        torch.manual_seed(0)
        logits = (torch.randn(5, 1025) * 4).to(dtype).to(precision).requires_grad_()
        logp, entropy, lse = op(logits, torch.tensor([0, 7, 1024, 512, 511]), 0.8)
        (logp.sum() + entropy.square().sum()).backward()
        assert logits.grad is not None
        results.append([logp, entropy, lse, logits.grad])
    for gold, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), gold, rtol=8e-3 if dtype == torch.bfloat16 else 2e-5, atol=1e-5)


def test_a_masked_vocabulary_entry_has_no_share() -> None:
    """-inf as a logit is how ids are forbidden."""
    logits = torch.randn(2, 700)
    logits[:, 100:600] = -float("inf")
    logits.requires_grad_()
    logp, entropy, _ = TRITON["token_logprob"](logits, torch.tensor([3, 650]))
    kept = torch.cat([logits.detach()[:, :100], logits.detach()[:, 600:]], 1)
    gold = torch.log_softmax(kept, -1)
    torch.testing.assert_close(entropy.detach(), -(gold.exp() * gold).sum(-1))
    (logp + entropy).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[:, 100:600].any()


@pytest.mark.parametrize("forbidden", [slice(0, 512), slice(0, 1100), slice(512, 1024)])
def test_a_whole_block_of_masked_entries(forbidden: slice) -> None:
    logits = torch.randn(3, 1200)
    logits[:, forbidden] = -float("inf")
    targets = torch.tensor([1150, 1199, 1101])
    found = TRITON["token_logprob"](logits, targets)
    kept = torch.isfinite(logits[0])
    gold = torch.log_softmax(logits[:, kept].double(), -1)
    torch.testing.assert_close(found[1].double(), -(gold.exp() * gold).sum(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[2].double(), logits.double().logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_targets_with_strides() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(4, 50), torch.randint(0, 50, (4, 3))
    for targets in (ids[:, 1], torch.tensor(7).expand(4)):
        for op in ("token_logprob", "linear_logprob"):
            inputs = (
                (logits, targets) if op == "token_logprob" else (torch.randn(4, 8), Head(torch.randn(50, 8)), targets)
            )
            torch.testing.assert_close(TRITON[op](*inputs)[0], OPS[op](*inputs)[0], rtol=1e-5, atol=1e-5)


def test_the_same_each_time() -> None:
    run = RUNS["fused, full KL and entropy"]
    op = VocabularyOps("triton").implementations()["fused_linear_policy_loss"]
    first, second = (run(op, Inputs(small(CASES[0]))) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_float64_is_refused() -> None:
    with pytest.raises(TypeError, match=r"not torch\.float64"):
        TRITON["token_logprob"](torch.randn(2, 8, dtype=torch.float64), torch.tensor([0, 1]))
