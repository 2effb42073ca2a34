"""Options of the stage beside its losses: early stop, KL in the loss, importance, a shared critic."""

from typing import Any

import pytest
import torch

from alignkit.errors import UserError
from alignkit.kl import KLTerm
from alignkit.loop.config import KLConfig
from alignkit.training.rollout_config import ImportanceConfig
from helpers.models import assert_same_gradients
from helpers.ppo import Catcher, caught, make_experience, make_loop, make_stage


def policy_gradient(loop: Any, experience: Any, **options: Any) -> dict[str, torch.Tensor]:
    return caught(loop, experience, **options)[0].gradients


class TestTargetKL:
    def test_the_rest_of_the_batch_is_left_out_and_the_schedule_goes_on(self, context: Any) -> None:
        loop = make_loop(context)
        stage = make_stage(lr=5e-2, epochs=4, minibatches=2, target_kl=1e-4)
        stage.start(loop.policy, loop.reference, loop.critic, 2, context)
        metrics = stage.update(make_experience(loop))
        assert 1 <= metrics["updates"] < 8
        assert stage._policy_optimizer.taken == 8
        assert stage._critic_optimizer is not None
        assert stage._critic_optimizer.taken == 8

    def test_a_batch_smaller_than_the_minibatches_counts_its_own_steps(self, context: Any) -> None:
        loop = make_loop(context)
        stage = make_stage(lr=1e-3, epochs=1, minibatches=3)
        assert [len(p) for p in self.parts(stage, loop, 8)] == [3, 3, 2]
        assert [len(p) for p in self.parts(stage, loop, 2)] == [1, 1]

    def parts(self, stage: Any, loop: Any, count: int) -> list[list[int]]:
        stage.start(loop.policy, loop.reference, loop.critic, 1, loop.context)
        return list(stage._minibatches(count))


class TestKLInTheLoss:
    @pytest.mark.parametrize("estimator", ["k2", "k3", "full"])
    def test_adds_the_coefficient_times_the_mean_term(self, context: Any, estimator: Any) -> None:
        loop = make_loop(context)
        with torch.no_grad():
            for parameter in loop.reference.module.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        rollout = loop.roll_out(loop.prompts, 1)
        experience, _ = loop.experience(rollout, loop.reward(rollout)[0], 0.0)
        plain = policy_gradient(loop, experience)
        term = KLTerm(0.7, estimator, "estimator")
        with_kl = policy_gradient(loop, experience._replace(kl_term=term))
        module: Any = loop.policy.module
        losses = []
        for prompt, completion in zip(rollout.prompt_ids, rollout.completion_ids, strict=True):
            ids = torch.tensor([prompt + completion])
            p = torch.log_softmax(module(ids).logits[0], -1)
            with torch.no_grad():
                q = torch.log_softmax(loop.reference.module(ids).logits[0], -1)
            for t, token in enumerate(completion, len(prompt) - 1):
                d = p[t, token] - q[t, token]
                full = (p[t].exp() * (p[t] - q[t])).sum()
                losses.append({"k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d, "full": full}[estimator])
        (0.7 * torch.stack(losses).mean()).backward()
        expected = {n: plain[n] + p.grad for n, p in module.named_parameters() if p.grad is not None}
        module.zero_grad(set_to_none=True)
        assert_same_gradients(with_kl, expected, 1e-4)
        assert max(float((with_kl[n] - plain[n]).abs().max()) for n in plain) > 1e-4

    def test_through_the_loop(self, context: Any) -> None:
        make_loop(context, kl=KLConfig(coef=0.1, estimator="k2", placement="loss")).run()
        row = dict(context.trackers[0].rows)[2]
        assert row["kl_loss"] > 0


def test_importance_weights_multiply_each_tokens_loss(context: Any) -> None:
    from dataclasses import replace

    loop = make_loop(context)
    experience = make_experience(loop)
    rollout = replace(experience.rollout, sampler_logp_BT=experience.logp_BT + 0.5 * experience.mask_BT)
    plain = policy_gradient(loop, experience)
    scaled = policy_gradient(loop, experience._replace(rollout=rollout), importance=ImportanceConfig())
    factor = float(torch.tensor(-0.5).exp())
    assert_same_gradients(scaled, {n: factor * g for n, g in plain.items()}, 1e-4)


class TestSharedCritic:
    def test_one_optimizer_and_the_value_loss_reaches_the_trunk(self, context: Any) -> None:
        loop = make_loop(context)
        loop.critic = loop.policy.critic(None, shared=True)
        torch.nn.init.normal_(next(loop.critic.module.parameters()))
        experience = make_experience(loop)
        gradients = []
        for value_coef in (1e-9, 1.0):
            stage = make_stage(lr=1e-3, epochs=1, minibatches=1, value_coef=value_coef)
            stage.start(loop.policy, loop.reference, loop.critic, 1, context)
            assert stage._critic_optimizer is None
            catcher = Catcher(loop.policy.module)
            stage._policy_optimizer = catcher  # type: ignore[assignment]
            metrics = stage.update(experience)
            loop.critic.module.zero_grad(set_to_none=True)
            gradients.append(catcher.gradients)
        assert metrics["value_loss"] > 0
        assert max(float((gradients[0][n] - gradients[1][n]).abs().max()) for n in gradients[0]) > 1e-4

    def test_a_warm_up_of_its_own_is_refused(self, context: Any) -> None:
        loop = make_loop(context)
        critic = loop.policy.critic(None, shared=True)
        with pytest.raises(UserError, match="critic_warmup needs a critic of its own"):
            make_stage(lr=1e-3, critic_warmup=1).start(loop.policy, loop.reference, critic, 3, context)

    @pytest.mark.parametrize(("shared", "why"), [(True, "at its rate"), (False, "there is no critic")])
    def test_a_rate_of_its_own_is_said_to_have_no_effect(
        self, shared: bool, why: str, context: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop = make_loop(context)
        critic = loop.policy.critic(None, shared=True) if shared else None
        make_stage(lr=1e-3, critic_lr=1e-2).start(loop.policy, loop.reference, critic, 3, context)
        assert "critic_lr has no effect" in caplog.text
        assert why in caplog.text

    def test_learns_values_in_the_loop(self, context: Any) -> None:
        loop = make_loop(context, iterations=2)
        loop.critic = loop.policy.critic(None, shared=True)
        loop.run()
        assert dict(context.trackers[0].rows)[2]["value_loss"] > 0
