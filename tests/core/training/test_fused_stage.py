"""An update is the same whether the loss is one op or several, and whichever kernel computes it."""

import os
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignkit.kl import KLTerm
from alignkit.manager import PluginManager
from alignkit.ops import choose_ops
from alignkit.training.rollout_stage import RolloutTraining
from alignkit_plugins.optim_ppo.config import PPOConfig
from alignkit_plugins.optim_ppo.objective import PPOObjective
from helpers.context import make_context
from helpers.ppo import Catcher, make_experience, make_loop

TERMS = (None, KLTerm(0.3, "k3", "corrected"), KLTerm(0.3, "k1", "estimator"), KLTerm(0.3, "full", "corrected"))


class Unfused:
    """PPO's objective without the words that let it be fused."""

    def __init__(self, config: PPOConfig) -> None:
        self.inner = PPOObjective(config)

    def __call__(self, *arguments: Any) -> Any:
        return self.inner(*arguments)


def update(
    objective: type, kernels: str, term: KLTerm | None, importance: str | None = None
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics and gradients of one update."""
    manager = PluginManager()
    manager.load()
    context = make_context(manager=manager)
    loop = make_loop(replace(context, ops=choose_ops(manager, kernels, torch.device("cpu"))))
    experience = make_experience(loop, disturb=0.2)._replace(kl_term=term)
    noise = torch.randn(experience.logp_BT.shape, generator=torch.Generator().manual_seed(0)) * 0.2
    sampled = replace(experience.rollout, sampler_logp_BT=(experience.logp_BT + noise) * experience.mask_BT)
    experience = experience._replace(rollout=sampled)
    options: dict[str, Any] = {"epochs": 1, "minibatches": 1, "micro_batch_tokens": 40}
    if importance:
        options["importance"] = {"level": "token", "mode": importance, "max": 1.1, "min": 0.5}
    config = PPOConfig(lr=1e-3, entropy_coef=0.05, **options)
    stage = RolloutTraining(config, objective(config))
    stage.start(loop.policy, loop.reference, loop.critic, 1, loop.context)
    assert loop.critic is not None
    policy, critic = Catcher(loop.policy.module), Catcher(loop.critic.module)
    stage._policy_optimizer, stage._critic_optimizer = policy, critic  # type: ignore[assignment]
    metrics = stage.update(experience)
    return metrics, policy.gradients


def assert_same(found: Any, expected: Any) -> None:
    (metrics, gradients), (expected_metrics, expected_gradients) = found, expected
    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("importance", [None, "truncate", "mask"])
@pytest.mark.parametrize("term", TERMS, ids=str)
def test_every_path_gives_the_same_update(
    term: KLTerm | None, importance: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit_kernels import chunks

    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 1000)  # a few tokens in a chunk
    expected = update(PPOObjective, "eager", term, importance)
    assert any(float(x.abs().max()) > 1e-4 for x in expected[1].values())
    for objective, kernels in ((Unfused, "eager"), (PPOObjective, "chunked"), (Unfused, "chunked")):
        assert_same(update(objective, kernels, term, importance), expected)


def test_a_subclass_with_another_loss_is_asked_for_it() -> None:
    class Doubled(PPOObjective):
        def __call__(self, *arguments: Any) -> Any:
            loss, diagnostics = super().__call__(*arguments)
            return 2 * loss, diagnostics

    metrics, _ = update(PPOObjective, "eager", None)
    doubled, _ = update(Doubled, "eager", None)
    assert doubled["policy_loss"] == pytest.approx(2 * metrics["policy_loss"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_ops_give_the_same_update() -> None:
    assert_same(update(PPOObjective, "compiled", TERMS[1]), update(PPOObjective, "eager", TERMS[1]))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="started by tests/kernels/test_interpreter.py")
@pytest.mark.parametrize("term", [TERMS[1], TERMS[3]], ids=str)
def test_triton_ops_give_the_same_update(term: KLTerm) -> None:
    assert_same(update(PPOObjective, "triton", term), update(PPOObjective, "eager", term))
