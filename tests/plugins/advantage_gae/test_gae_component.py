"""The component hands the loop's tensors to the op and asks for a critic."""

from typing import Any

import torch

from alignkit.ops import gae
from alignkit_plugins.advantage_gae.estimator import GAE
from alignkit_plugins.advantage_gae.plugin import GAEConfig, build


def test_it_is_the_op_with_the_configured_numbers(context: Any) -> None:
    estimator = build(GAEConfig(gamma=0.9, lam=0.8), context)
    assert isinstance(estimator, GAE)
    assert estimator.needs.critic
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rewards, values = torch.randn(2, 2, 3)
    found = estimator(rewards, values, mask, torch.tensor([0, 1]))
    expected = gae(rewards, values, mask, 0.9, 0.8)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
