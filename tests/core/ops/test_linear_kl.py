"""Full-distribution KL against sums over the vocabulary in float64."""

import math

import pytest
import torch

from alignkit.batches import Head
from alignkit.ops import linear_kl, policy_loss


def distribution(h: torch.Tensor, head: Head, temperature: float) -> list[float]:
    z = [float(head.weight_VH[v].double() @ h.double()) for v in range(len(head.weight_VH))]
    z = [(x + (float(head.bias_V[v]) if head.bias_V is not None else 0.0)) * head.scale for v, x in enumerate(z)]
    if head.softcap is not None:
        z = [head.softcap * math.tanh(x / head.softcap) for x in z]
    top = max(x / temperature for x in z)
    total = sum(math.exp(x / temperature - top) for x in z)
    return [math.exp(x / temperature - top) / total for x in z]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_equals_the_sum_and_teaches_the_policy_only(temperature: float) -> None:
    torch.manual_seed(0)
    head = Head(torch.randn(9, 4), torch.randn(9), softcap=3.0)
    ref_head = Head(torch.randn(9, 6).requires_grad_(), scale=0.5)
    h, ref_h = torch.randn(3, 4).requires_grad_(), torch.randn(3, 6).requires_grad_()
    found = linear_kl(h, head, ref_h, ref_head, temperature)
    for n in range(3):
        p = distribution(h[n].detach(), head, temperature)
        q = distribution(ref_h[n].detach(), Head(ref_head.weight_VH.detach(), scale=0.5), temperature)
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert float(found[n].detach()) == pytest.approx(expected, rel=1e-4)
    found.sum().backward()
    assert h.grad is not None
    assert h.grad.abs().max() > 0
    assert ref_h.grad is None
    assert ref_head.weight_VH.grad is None


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("ratio", [0.5, 0.85, 1.0, 1.25, 1.5, 4.0])
def test_policy_loss_with_unequal_ranges_and_dual_clip(advantage: float, ratio: float) -> None:
    old = torch.tensor([-1.0], dtype=torch.float64)
    loss, diagnostics = policy_loss(
        old + math.log(ratio), old, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.3, dual_clip=3.0
    )
    objective = min(ratio * advantage, min(max(ratio, 0.8), 1.3) * advantage)
    if advantage < 0:
        objective = max(objective, 3.0 * advantage)
    assert float(loss) == pytest.approx(-objective, rel=1e-9)
    assert float(diagnostics["clipped"]) == float(objective != ratio * advantage)
