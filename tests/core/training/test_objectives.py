"""Objectives beside PPO's, against the papers' formulas in float64, values and gradients."""

import math
from collections.abc import Sequence

import pytest
import torch

from alignkit.ops import Ops, choose_ops
from alignkit.training.objectives import Objective
from alignkit_plugins.optim_cispo.config import CISPOConfig
from alignkit_plugins.optim_cispo.objective import CISPOObjective
from alignkit_plugins.optim_gspo.config import GSPOConfig
from alignkit_plugins.optim_gspo.objective import GSPOObjective
from alignkit_plugins.optim_ppo.config import PPOConfig
from alignkit_plugins.optim_ppo.objective import PPOObjective
from alignkit_plugins.optim_reinforce.objective import ReinforceObjective

LENGTHS = [3, 1, 4]
ROWS = torch.tensor([b for b, n in enumerate(LENGTHS) for _ in range(n)])


@pytest.fixture
def ops() -> Ops:
    return choose_ops(None, "eager", torch.device("cpu"))  # type: ignore[arg-type]


def tokens(step: float = 0.3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs now and before, and one advantage per completion."""
    torch.manual_seed(4)
    old = -torch.rand(8, dtype=torch.float64) * 3
    return (
        (old + step * torch.randn(8, dtype=torch.float64)).requires_grad_(),
        old,
        torch.tensor([1.0, -2.0, 0.5])[ROWS],
    )


def split(x: torch.Tensor) -> Sequence[torch.Tensor]:
    return x.split(LENGTHS)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("clip", [0.05, 10.0])
def test_gspo_is_one_clipped_ratio_per_completion(ops: Ops, normalise: bool, clip: float) -> None:
    logp, old, advantages = tokens()
    config = GSPOConfig(clip_range=min(clip, 0.99), clip_range_high=clip, length_normalise=normalise)
    loss, diagnostics = GSPOObjective(config)(logp, old, advantages, ROWS, ops)
    # The paper's objective: the mean over completions of min(s A, clip(s) A).
    weights = torch.tensor([1 / (3 * (n if normalise else 1)) for n in LENGTHS], dtype=torch.float64)[ROWS]
    found = torch.autograd.grad((loss * weights).sum(), logp)[0]
    again, _, _ = tokens()
    total = torch.zeros((), dtype=torch.float64)
    for now, before, a in zip(split(again), split(old), split(advantages), strict=True):
        difference = (now - before).mean() if normalise else (now - before).sum()
        s = difference.exp()
        total = total - torch.minimum(s * a[0], s.clamp(1 - config.clip_range, 1 + clip) * a[0]) / 3
    assert torch.allclose(found, torch.autograd.grad(total, again)[0])
    assert bool(diagnostics["clipped"].any()) == (clip == 0.05)


@pytest.mark.parametrize("low", [None, 0.1])
def test_cispo_clips_the_weight_and_keeps_every_gradient(ops: Ops, low: float | None) -> None:
    logp, old, advantages = tokens()
    loss, diagnostics = CISPOObjective(CISPOConfig(clip_range_high=0.1, clip_range=low))(
        logp, old, advantages, ROWS, ops
    )
    found = torch.autograd.grad(loss.sum(), logp)[0]
    for n in range(8):
        ratio = math.exp(float(logp[n].detach() - old[n]))
        weight = min(ratio, 1.1) if low is None else min(max(ratio, 0.9), 1.1)
        assert float(found[n]) == pytest.approx(-weight * float(advantages[n]))
        assert float(diagnostics["clipped"][n]) == float(weight != ratio)
    assert diagnostics["clipped"].any()


def test_reinforce_is_the_score_function(ops: Ops) -> None:
    logp, old, advantages = tokens()
    loss, diagnostics = ReinforceObjective()(logp, old, advantages, ROWS, ops)
    assert torch.allclose(torch.autograd.grad(loss.sum(), logp)[0], -advantages.double())
    assert not diagnostics["clipped"].any()


@pytest.mark.parametrize(
    "objective",
    [
        PPOObjective(PPOConfig()),
        GSPOObjective(GSPOConfig(length_normalise=False)),
        CISPOObjective(CISPOConfig()),
        ReinforceObjective(),
    ],
    ids=["ppo", "gspo", "cispo", "reinforce"],
)
def test_before_the_first_update_all_have_the_policy_gradient(ops: Ops, objective: Objective) -> None:
    logp, old, advantages = tokens(0.0)
    loss, diagnostics = objective(logp, old, advantages, ROWS, ops)
    assert torch.allclose(torch.autograd.grad(loss.sum(), logp)[0], -advantages.double())
    assert torch.equal(diagnostics["ratio"], torch.ones(8, dtype=torch.float64))
    assert not diagnostics["clipped"].any()
    assert not diagnostics["approx_kl"].any()
