"""Advantages are whitened for the policy; what the critic learns is not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.loop.config import LoopConfig
from alignkit.loop.experience import ExperienceMaker
from alignkit.protocols import Whitening
from alignkit_plugins.advantage_gae.estimator import GAE
from helpers.context import make_rollout
from helpers.models import make_policy


@pytest.mark.parametrize("whiten", [None, Whitening(), Whitening(variance="unbiased")])
def test_advantages_are_whitened_and_returns_are_not(context: Any, tmp_path: Path, whiten: Whitening | None) -> None:
    policy, reference = make_policy("llama", seed=0), make_policy("llama", seed=1)
    critic = policy.critic(None)
    torch.nn.init.normal_(critic.module.score.weight, std=0.3)
    rollout = make_rollout(policy, ["the film", "a"], [[40, 41, policy.encoder.end_id], [42, 43, 44, 45, 46, 47]])
    advantage = GAE(0.9, 0.8, context.ops, whiten)
    make = ExperienceMaker(policy, reference, critic, advantage, LoopConfig(iterations=1), context.ops)
    experience, _ = make(rollout, torch.tensor([3.0, -9.0]), 0.1)
    mask = rollout.mask_BT
    assert experience.values_BT is not None
    plain = experience.returns_BT - experience.values_BT  # GAE: R_t = A_t + V_t
    real = plain[mask].double()
    if whiten is not None:
        variance = real.var(unbiased=whiten.variance == "unbiased")
        real = (real - real.mean()) / torch.sqrt(variance + 1e-8)
    assert torch.allclose(experience.advantages_BT[mask].double(), real, atol=1e-5)
    assert not experience.advantages_BT[~mask].any()
    assert float(plain[mask].mean().abs()) > 0.1  # so that whitened returns would show
