"""The loop's own arithmetic: what becomes of scores, log-probs and values on their way to the optimizer stage."""

from typing import Any

import pytest
import torch

from alignkit.loop.config import KLConfig, LoopConfig, MissingStopConfig
from alignkit.loop.logprobs import rollout_logprobs, rollout_values
from alignkit.loop.loop import AlignmentLoop
from alignkit.loop.measure import distinct_n, measure, text_figures
from alignkit.protocols import Needs
from alignkit.records import Prompt, Sampling
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.context import TextScores, make_rollout
from helpers.models import make_policy


class Keep:
    """An advantage estimator that shows the rewards it was given."""

    needs = Needs()

    def __call__(self, rewards_BT: Any, values_BT: Any, mask_BT: Any, group_B: Any) -> tuple[Any, Any]:
        return rewards_BT, rewards_BT


class Idle:
    """An optimizer stage that learns nothing."""

    adds_kl = False

    def start(self, *arguments: object) -> None:
        self.updates = 0

    def update(self, experience: object) -> dict[str, float]:
        self.updates += 1
        return {}


def make_loop(context: Any, policy: Any, reference: Any, **options: Any) -> AlignmentLoop:
    return AlignmentLoop(
        policy=policy,
        reference=reference,
        critic=None,
        reward_source=TextScores(lambda t: float(len(t))),
        advantage=Keep(),
        stage=Idle(),
        sampler=HFSampler(8),
        prompts=[Prompt(prompt=t) for t in ("the film", "a", "I recommend it")],
        eval_prompts=[],
        monitors={},
        config=LoopConfig(**{"iterations": 1, "batch_size": 4, **options}),
        context=context,
    )


@pytest.fixture
def pair() -> tuple[Any, Any]:
    return make_policy("llama", seed=0), make_policy("llama", seed=1)


class TestExperience:
    def rollout(self, policy: Any) -> Any:
        end = policy.encoder.end_id
        return make_rollout(
            policy, ["the film", "a"], [[*policy.encoder.text(" is"), end], [40, 41, 42, 43, 44, 45]], 0.7
        )

    def test_rewards_are_kl_and_the_clipped_penalised_score(self, context: Any, pair: tuple[Any, Any]) -> None:
        policy, reference = pair
        rollout = self.rollout(policy)
        loop = make_loop(
            context, policy, reference, clip_score=2.5, missing_stop=MissingStopConfig(mode="subtract", value=4.0)
        )
        experience, metrics = loop.experience(rollout, torch.tensor([3.0, -9.0]), 0.1)
        ratio = experience.logp_BT - experience.ref_logp_BT
        expected = -0.1 * ratio
        last = [len(c) - 1 for c in rollout.completion_ids]
        expected[0, last[0]] += 2.5
        expected[1, last[1]] += -2.5 - 4.0
        assert torch.allclose(experience.advantages_BT, expected * rollout.mask_BT, atol=1e-6)
        assert metrics["kl"] == pytest.approx(float(ratio.sum(-1).mean()), rel=1e-5)
        assert metrics["objective"] == pytest.approx(float(expected.sum(-1).mean()), rel=1e-5)
        assert metrics["missing_stop"] == 0.5

    def test_whitening_keeps_the_mean_and_does_not_change_the_objective(
        self, context: Any, pair: tuple[Any, Any]
    ) -> None:
        policy, reference = pair
        rollout, scores = self.rollout(policy), torch.tensor([3.0, -9.0])
        plain, before = make_loop(context, policy, reference).experience(rollout, scores, 0.1)
        white, after = make_loop(context, policy, reference, whiten_rewards=True).experience(rollout, scores, 0.1)
        mask = rollout.mask_BT
        assert white.returns_BT[mask].mean() == pytest.approx(float(plain.returns_BT[mask].mean()), abs=1e-5)
        assert white.returns_BT[mask].std(unbiased=False) == pytest.approx(1.0, abs=1e-4)
        assert after["objective"] == pytest.approx(before["objective"])

    def test_everything_behind_the_end_is_zero(self, context: Any, pair: tuple[Any, Any]) -> None:
        rollout = self.rollout(pair[0])
        experience, _ = make_loop(context, *pair).experience(rollout, torch.tensor([1.0, 2.0]), 0.1)
        for name in ("logp_BT", "ref_logp_BT", "advantages_BT", "returns_BT"):
            assert not getattr(experience, name)[~rollout.mask_BT].any()


class TestReward:
    def test_scores_of_the_source_and_their_mean(self, context: Any, pair: tuple[Any, Any]) -> None:
        loop = make_loop(context, *pair)
        rollout = make_rollout(pair[0], ["a", "b"], [[40, 41], [42]])
        scores, figures = loop.reward(rollout)
        assert scores.tolist() == [float(len(t)) for t in rollout.texts]
        assert figures["reward"] == pytest.approx(sum(scores.tolist()) / 2)


class TestLogProbs:
    def test_do_not_depend_on_micro_batches_and_leave_no_gradient(self, context: Any, policy: Any) -> None:
        rollout = make_rollout(policy, ["the film is", "a", "I"], [[40, 41], [42, 43, 44, 45, 46], [47]])
        whole = rollout_logprobs(policy, rollout, context.ops, 10**6)
        assert torch.allclose(rollout_logprobs(policy, rollout, context.ops, 1), whole, atol=1e-5)
        assert not whole.requires_grad
        critic = policy.critic(None)
        torch.nn.init.normal_(critic.module.score.weight)
        values = [rollout_values(critic, rollout, policy.pad_id, policy.device, n) for n in (1, 10**6)]
        assert torch.allclose(*values, atol=1e-5)
        assert bool((values[0] != 0).eq(rollout.mask_BT).all())


class TestBatches:
    def test_each_epoch_is_a_fresh_permutation_and_samples_of_a_prompt_stay_together(
        self, context: Any, pair: tuple[Any, Any]
    ) -> None:
        loop = make_loop(context, *pair, batch_size=6, samples_per_prompt=2)
        batches = loop._prompt_batches()
        epochs = [[p.id for p in next(batches)] for _ in range(6)]
        for ids in epochs:
            assert ids[0::2] == ids[1::2]
            assert set(ids) == {p.id for p in loop.prompts}
        assert len({tuple(ids) for ids in epochs}) > 1

    def test_the_kl_coefficient_follows_the_measured_kl(self, context: Any, pair: tuple[Any, Any]) -> None:
        loop = make_loop(context, *pair, iterations=2, kl=KLConfig(coef=0.1, target=0.5, horizon=100))
        result = loop.run()
        rows = dict(context.trackers[0].rows)
        coef = 0.1
        for iteration in (1, 2):
            assert rows[iteration]["kl_coef"] == pytest.approx(coef)
            coef *= 1 + min(max(rows[iteration]["kl"] / 0.5 - 1, -0.2), 0.2) * 4 / 100
        assert result["kl_coef"] == pytest.approx(coef)
        assert coef != 0.1


class TestMeasure:
    def test_kl_needs_samples_of_the_whole_distribution(self, context: Any, pair: tuple[Any, Any]) -> None:
        policy, reference = pair
        prompts = [Prompt(prompt="the film")]
        source = {"letters": TextScores(lambda t: float(len(t)))}

        def figures(**sampling: Any) -> dict[str, float]:
            drawn = Sampling(max_length=6, **sampling)
            return measure(policy, reference, HFSampler(4), prompts, drawn, source, context.ops, 0, 512)[0]

        assert "kl" in figures()
        for restricted in ({"temperature": 0}, {"top_k": 3}, {"top_p": 0.9}):
            assert "kl" not in figures(**restricted)
            assert "letters" in figures(**restricted)
        reference.tokenizer_id = "another"
        assert "kl" not in figures()

    def test_the_kl_estimate_agrees_with_the_exact_kl_of_one_token(self, context: Any, pair: tuple[Any, Any]) -> None:
        policy, reference = pair
        prompts = [Prompt(prompt="the film", id=str(n)) for n in range(4000)]
        drawn = Sampling(max_length=1, temperature=0.7)
        found, _ = measure(policy, reference, HFSampler(4000), prompts, drawn, {}, context.ops, 0, 10**6)
        ids = torch.tensor([policy.encode_prompt("the film")])
        with torch.no_grad():
            p, q = (torch.log_softmax(m.module(ids).logits[0, -1].double() / 0.7, -1) for m in pair)
        exact = float((p.exp() * (p - q)).sum())
        spread = float((p.exp() * (p - q) ** 2).sum() - exact**2) ** 0.5
        assert found["kl"] == pytest.approx(exact, abs=4 * spread / 4000**0.5)

    def test_text_figures(self, llama: Any) -> None:
        end = llama.encoder.end_id
        rollout = make_rollout(llama, ["a", "b"], [[40, 41, end], [40, 41, 42]])
        assert text_figures(rollout)["length"] == 3
        assert text_figures(rollout)["missing_stop"] == 0.5
        assert distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
        assert distinct_n(["", "a"], 2) == 0.0
