"""Losses and advantage estimation in Triton against the eager references."""

from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.ops import OPS
from alignkit_kernels.triton_component import TritonKernel

TRITON = TritonKernel().implementations()
N = 1500  # more than one block


def numbers(count: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    new = torch.randn(N)
    return new, new + 0.5 * torch.randn(N), torch.randn(N)


def both(name: str, leaves: list[Tensor], *rest: Any) -> list[list[Tensor]]:
    results = []
    for op in (OPS[name], TRITON[name]):
        mine = [x.clone().requires_grad_() for x in leaves]
        found = op(*mine, *rest)
        loss, figures = found if isinstance(found, tuple) else (found, {})
        # the gradient of a sum has stride 0
        loss.sum().backward()
        results.append([loss, *figures.values(), *(x.grad for x in mine if x.grad is not None)])
    return results


@pytest.mark.parametrize("dual", [None, 1.5])
def test_policy_loss(dual: float | None) -> None:
    logp, old, advantages = numbers(N)
    logp[0] = old[0] + 30  # beyond what the ratio may be
    for eager, found in zip(*both("policy_loss", [logp], old, advantages, 0.2, 0.3, dual), strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_loss(clip: float | None) -> None:
    values, old, returns = numbers(N)
    for eager, found in zip(*both("value_loss", [values], old, returns, clip), strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-6, atol=1e-6)


def test_pairwise_loss() -> None:
    chosen, rejected, x = numbers(N)
    chosen[:3] = rejected[:3] + torch.tensor([40.0, -40.0, 12.0])
    rest = torch.sigmoid(3 * x), x.abs(), x.square()
    for eager, found in zip(*both("pairwise_loss", [chosen, rejected], *rest), strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-5, atol=1e-6)


def test_other_shapes_than_one_row() -> None:
    torch.manual_seed(0)
    x, y, z = torch.randn(6, 5), torch.randn(6, 5), torch.randn(6, 5)
    for name, rest in (
        ("value_loss", (y, z, 0.2)),
        ("pairwise_loss", (y, z.sigmoid(), torch.tensor(0.1), torch.ones(5))),
    ):
        for eager, found in zip(*both(name, [x], *rest), strict=True):
            torch.testing.assert_close(found, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 5, 16, 1024, 2500])
def test_gae(length: int) -> None:
    torch.manual_seed(length)
    rewards, values = torch.randn(4, length), torch.randn(4, length)
    mask = torch.arange(length)[None] < torch.tensor([length, max(1, length // 2), max(1, length - 1), 1])[:, None]
    gold = OPS["gae"](rewards.double(), values.double(), mask, 0.99, 0.95)
    for truth, found in zip(gold, TRITON["gae"](rewards, values, mask, 0.99, 0.95), strict=True):
        torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)
