"""Gradients of weights that each of several processes holds whole."""

import pytest
import torch
from torch import nn

from alignkit import processes
from alignkit.modeling.sharding import sum_gradients


def test_a_weight_that_no_process_has_used_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one of zeros AdamW would decay it, which one process alone does not do."""
    used, other, unused = (nn.Parameter(torch.ones(2)) for _ in range(3))
    used.grad = torch.full((2,), 3.0)
    # The other process of two has used `other`, and found gradients of 1.
    monkeypatch.setattr(processes, "_group", processes.Group(None, 0, 2))
    monkeypatch.setattr("alignkit.modeling.sharding.summed", lambda x: x + torch.tensor([0.0, 1.0, 0.0]))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda x: x.add_(1))
    sum_gradients([used, other, unused])
    assert torch.equal(used.grad, torch.full((2,), 4.0))
    assert other.grad is not None
    assert torch.equal(other.grad, torch.ones(2))
    assert unused.grad is None
