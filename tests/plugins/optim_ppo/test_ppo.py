"""PPO through the real loop: exact before the first update, equal to the papers' losses, the same however batched."""

import math
from typing import Any

import pytest
import torch

from alignkit.loop.config import KLConfig
from alignkit.loop.loop import AlignmentLoop
from alignkit.protocols import Experience
from alignkit.records import Sampling
from helpers.models import assert_same_gradients
from helpers.ppo import caught, make_experience, make_loop, make_stage


class TestBeforeTheFirstUpdate:
    @pytest.mark.parametrize(("kind", "dropout"), [("llama", 0.0), ("llama", 0.3), ("gpt2", 0.3)])
    @pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
    def test_ratio_is_one_kl_zero_and_nothing_clipped(
        self, context: Any, kind: str, dropout: float, temperature: float
    ) -> None:
        loop = make_loop(
            context,
            kind,
            dropout,
            ppo={"epochs": 1, "minibatches": 1, "micro_batch_tokens": 40},
            sampling=Sampling(temperature=temperature, max_length=10),
        )
        loop.policy.module.train()  # as a stage before might have left it
        loop.run()
        first = dict(context.trackers[0].rows)[1]
        assert first["first_ratio_error"] < 1e-4
        assert first["first_clipped"] == 0
        assert first["clip_fraction"] == 0
        assert abs(first["approx_kl"]) < 1e-7
        assert abs(first["kl"]) < 1e-4  # the reference is the policy itself
        assert first["sampler_mismatch"] < 1e-3
        second = dict(context.trackers[0].rows)[2]
        assert abs(second["kl"]) > 1e-4  # and after an update it is not

    def test_the_second_pass_over_a_batch_does_move(self, context: Any) -> None:
        loop = make_loop(context, ppo={"epochs": 2, "minibatches": 1, "lr": 1e-2}, iterations=1)
        loop.run()
        row = dict(context.trackers[0].rows)[1]
        assert row["first_ratio_error"] < 1e-4
        assert row["approx_kl"] > 1e-5


class TestLosses:
    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    @pytest.mark.parametrize("temperature", [0.7, 1.0])
    def test_equal_the_papers_formulas_over_unpadded_rows(self, context: Any, kind: str, temperature: float) -> None:
        loop = make_loop(context, kind, sampling=Sampling(temperature=temperature, max_length=10))
        assert loop.critic is not None
        torch.nn.init.normal_(loop.critic.module.score.weight, std=0.3)  # type: ignore[union-attr, arg-type]
        experience = make_experience(loop, disturb=0.3)
        policy_catcher, critic_catcher, metrics = caught(loop, experience, entropy_coef=0.01)
        losses = plain_losses(loop, experience, temperature, 0.2, 0.2)
        plain = [float(x.detach()) for x in losses]
        assert metrics["policy_loss"] == pytest.approx(plain[0], rel=1e-4)
        assert metrics["value_loss"] == pytest.approx(plain[1], rel=1e-4)
        assert metrics["entropy"] == pytest.approx(plain[2], rel=1e-4)
        assert 0 < metrics["clip_fraction"] < 1
        (losses[0] - 0.01 * losses[2]).backward()
        losses[1].backward()
        for catcher, module in ((policy_catcher, loop.policy.module), (critic_catcher, loop.critic.module)):
            found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
            assert_same_gradients(found, catcher.gradients, 1e-4)

    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_do_not_depend_on_micro_batches(self, context: Any, kind: str) -> None:
        loop = make_loop(context, kind)
        experience = make_experience(loop, disturb=0.3)
        whole = caught(loop, experience, micro_batch_tokens=10**6)
        assert len({len(c) for c in experience.rollout.prompt_ids}) > 3
        for tokens in (1, 50):
            split = caught(loop, experience, micro_batch_tokens=tokens)
            for a, b in zip(whole[:2], split[:2], strict=True):
                assert_same_gradients(a.gradients, b.gradients)
            for name, value in whole[2].items():
                assert split[2][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name

    def test_do_not_depend_on_the_order_of_completions(self, context: Any) -> None:
        loop = make_loop(context)
        experience = make_experience(loop, disturb=0.3)
        a, b = caught(loop, experience), caught(loop, reordered(experience, [5, 2, 0, 7, 1, 6, 4, 3]))
        assert_same_gradients(a[0].gradients, b[0].gradients)
        assert_same_gradients(a[1].gradients, b[1].gradients)

    def test_one_minibatch_equals_the_token_weighted_mean_of_its_parts(self, context: Any) -> None:
        """Token mean over the whole minibatch: a long completion counts by its tokens, not as one of n rows."""
        loop = make_loop(context)
        experience = make_experience(loop, disturb=0.3)
        whole = caught(loop, experience)[0].gradients
        parts = [[0, 1, 2], [3, 4, 5, 6, 7]]
        total = int(experience.mask_BT.sum())
        mixed: dict[str, torch.Tensor] = {}
        for rows in parts:
            part = reordered(experience, rows)
            share = int(part.mask_BT.sum()) / total
            for name, value in caught(loop, part)[0].gradients.items():
                mixed[name] = mixed.get(name, torch.zeros_like(value)) + share * value
        assert_same_gradients(whole, mixed)


def reordered(experience: Experience, rows: list[int]) -> Experience:
    """Some completions of an experience."""
    from dataclasses import replace

    old = experience.rollout
    rollout = replace(
        old,
        **{
            n: tuple(getattr(old, n)[i] for i in rows)
            for n in ("prompts", "prompt_ids", "completion_ids", "texts", "finish")
        },
        group_B=old.group_B[rows],
        sampler_logp_BT=None,
    )
    width = rollout.mask_BT.shape[1]
    tensors = {n: getattr(experience, n) for n in experience._fields if n.endswith("_BT")}
    return Experience(rollout=rollout, **{n: t[rows, :width] for n, t in tensors.items()})


def plain_losses(
    loop: AlignmentLoop, experience: Experience, temperature: float, clip: float, value_clip: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Policy loss, value loss and entropy as token means, row by row from transformers' logits, in float64."""
    mask = experience.mask_BT
    advantages = experience.advantages_BT[mask].double()
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)  # the loop whitens for an estimator that asks
    assert float(advantages.var(unbiased=False)) == pytest.approx(1, abs=1e-4)
    assert experience.values_BT is not None
    old, old_values, returns = (
        t[mask].double() for t in (experience.logp_BT, experience.values_BT, experience.returns_BT)
    )
    policy_terms, value_terms, entropies = [], [], []
    critic: Any = loop.critic
    n = 0
    for prompt, completion in zip(experience.rollout.prompt_ids, experience.rollout.completion_ids, strict=True):
        ids = torch.tensor([prompt + completion])
        logp_TV = torch.log_softmax(loop.policy.module(ids).logits[0].double() / temperature, -1)
        values_T = critic.module.score(critic.module.base_model(ids).last_hidden_state[0])[:, 0].double()
        for t in range(len(prompt), ids.shape[1]):
            rho = torch.exp(logp_TV[t - 1, ids[0, t]] - old[n])
            a = advantages[n]
            policy_terms.append(-torch.minimum(rho * a, rho.clamp(1 - clip, 1 + clip) * a))
            near = old_values[n] + (values_T[t - 1] - old_values[n]).clamp(-value_clip, value_clip)
            value_terms.append(0.5 * torch.maximum((values_T[t - 1] - returns[n]) ** 2, (near - returns[n]) ** 2))
            entropies.append(-(logp_TV[t - 1].exp() * logp_TV[t - 1]).sum())
            n += 1
    assert n == int(mask.sum())
    return torch.stack(policy_terms).mean(), torch.stack(value_terms).mean(), torch.stack(entropies).mean()


class TestTokenIds:
    def test_the_ids_trained_on_are_exactly_the_sampled_ones(self, context: Any) -> None:
        loop = make_loop(context)
        experience = make_experience(loop)
        sampled = {p + c for p, c in zip(experience.rollout.prompt_ids, experience.rollout.completion_ids, strict=True)}
        again = [tuple(loop.policy.encoder.text(t)) for t in experience.rollout.texts]  # type: ignore[attr-defined]
        assert any(a != c for a, c in zip(again, experience.rollout.completion_ids, strict=True))
        seen: set[tuple[int, ...]] = set()
        targets = 0
        hidden = loop.policy.hidden

        def spy(batch: Any) -> Any:
            nonlocal targets
            seen.update(tuple(ids[m].tolist()) for ids, m in zip(batch.ids_BT, batch.mask_BT, strict=True))
            targets += batch.tokens
            return hidden(batch)

        loop.policy.hidden = spy  # type: ignore[method-assign]
        caught(loop, experience)
        assert seen == sampled
        assert targets == int(experience.mask_BT.sum())


class TestStage:
    def test_during_critic_warmup_only_the_critic_learns(self, context: Any) -> None:
        loop = make_loop(context, ppo={"critic_warmup": 1, "epochs": 1})
        before = {n: p.clone() for n, p in loop.policy.module.named_parameters()}
        assert loop.critic is not None
        critic_before = {n: p.clone() for n, p in loop.critic.module.named_parameters()}
        experience = make_experience(loop)
        loop.stage.start(loop.policy, loop.reference, loop.critic, 2, context)
        loop.stage.update(experience)
        assert all(torch.equal(p, before[n]) for n, p in loop.policy.module.named_parameters())
        assert any(not torch.equal(p, critic_before[n]) for n, p in loop.critic.module.named_parameters())
        loop.stage.update(experience)
        assert any(not torch.equal(p, before[n]) for n, p in loop.policy.module.named_parameters())

    def test_metrics_are_finite_and_name_what_a_run_shows(self, context: Any) -> None:
        make_loop(context, iterations=1).run()
        row = dict(context.trackers[0].rows)[1]
        assert {"reward", "kl", "objective", "policy_loss", "value_loss", "entropy", "clip_fraction", "lr"} <= set(row)
        assert all(math.isfinite(v) for v in row.values())

    def test_works_without_a_critic(self, context: Any) -> None:
        loop = make_loop(context)
        experience = make_experience(loop)._replace(values_BT=None)
        stage = make_stage(lr=1e-3, epochs=1)
        stage.start(loop.policy, loop.reference, None, 1, context)
        assert "value_loss" not in stage.update(experience)

    def test_it_raises_a_simple_reward(self, context: Any) -> None:
        loop = make_loop(
            context,
            iterations=12,
            batch_size=48,
            kl=KLConfig(coef=0.0),
            missing_stop=None,
            ppo={"lr": 1e-2, "minibatches": 2, "epochs": 2},
        )
        loop.run()
        rewards = [row["reward"] for _, row in context.trackers[0].rows]
        assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.05
