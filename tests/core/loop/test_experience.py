"""What the loop's options do to rewards, values and advantages, through the loop itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from alignkit.errors import UserError
from alignkit.loop.config import KLConfig, LoopConfig
from alignkit.loop.loop import AlignmentLoop
from alignkit.protocols import Needs
from alignkit.records import Prompt, Sampling
from alignkit_plugins.advantage_remax.estimator import ReMax
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.context import TextScores, make_rollout
from helpers.models import make_policy


class Keep:
    """Shows what the estimator is given."""

    def __init__(self, critic: bool = False) -> None:
        self.needs = Needs(critic=critic)

    def __call__(self, rewards_BT: Any, values_BT: Any, mask_BT: Any, group_B: Any) -> tuple[Any, Any]:
        self.rewards_BT, self.values_BT, self.mask_BT = rewards_BT, values_BT, mask_BT
        return rewards_BT, rewards_BT


class Idle:
    """Learns nothing."""

    adds_kl = True

    def start(self, *arguments: object) -> None:
        """Nothing to prepare."""

    def update(self, experience: object) -> dict[str, float]:
        """Nothing to do."""
        return {}


def make_loop(context: Any, advantage: Any, critic: Any = None, **options: Any) -> AlignmentLoop:
    return AlignmentLoop(
        policy=make_policy("llama", seed=0),
        reference=make_policy("llama", seed=1),
        critic=critic,
        reward_source=TextScores(lambda t: float(len(t))),
        advantage=advantage,
        stage=Idle(),
        sampler=HFSampler(8),
        prompts=[Prompt(prompt=t) for t in ("the film", "a", "I recommend it")],
        eval_prompts=[],
        monitors={},
        config=LoopConfig(**{"iterations": 1, "batch_size": 4, "sampling": Sampling(max_length=6), **options}),
        context=context,
    )


def given(policy: Any) -> Any:
    """One completion that stopped, one at the limit."""
    return make_rollout(policy, ["the film", "a"], [[40, 41, policy.encoder.end_id], [42, 43, 44, 45]])


class TestScorePosition:
    def test_behind_the_stop_token_there_is_a_value_and_the_score(self, context: Any) -> None:
        policy = make_policy("llama", seed=0)
        critic = policy.critic(None)
        torch.nn.init.normal_(critic.module.score.weight)
        keep = Keep(critic=True)
        loop = make_loop(context, keep, critic, score_position="after_stop", kl=KLConfig(coef=0.0))
        rollout = given(loop.policy)
        experience, _ = loop.experience(rollout, torch.tensor([2.0, 5.0]), 0.0)
        assert experience.value_mask_BT.tolist() == [[True] * 4 + [False], [True] * 4 + [False]]
        assert keep.rewards_BT.tolist() == [[0, 0, 0, 2, 0], [0, 0, 0, 5, 0]]
        assert experience.advantages_BT.tolist() == [[0, 0, 0, 0], [0, 0, 0, 5]]
        assert experience.values_BT is not None
        ids = torch.tensor([rollout.prompt_ids[0] + rollout.completion_ids[0]])
        with torch.no_grad():
            values = critic.module.score(critic.module.base_model(ids).last_hidden_state)[0, -4:, 0]
        assert torch.allclose(experience.values_BT[0, :4], values, atol=1e-5)

    def test_a_context_without_room_for_that_position_is_the_users_mistake(self, context: Any) -> None:
        policy = make_policy("llama", seed=0)
        loop = make_loop(context, Keep(critic=True), policy.critic(None), score_position="after_stop")
        rollout = given(loop.policy)
        loop.policy.max_positions = len(rollout.prompt_ids[0]) + 3
        with pytest.raises(UserError, match="positions"):
            loop.experience(rollout, torch.tensor([2.0, 5.0]), 0.0)

    def test_without_a_critic_it_stays_on_the_stop_token(self, context: Any) -> None:
        keep = Keep()
        loop = make_loop(context, keep, score_position="after_stop", kl=KLConfig(coef=0.0))
        loop.experience(given(loop.policy), torch.tensor([2.0, 5.0]), 0.0)
        assert keep.rewards_BT.tolist() == [[0, 0, 2, 0], [0, 0, 0, 5]]


class TestKL:
    def plain(self, loop: Any, rollout: Any, estimator: str) -> torch.Tensor:
        """KL of each token from transformers' logits, completion by completion."""
        out = torch.zeros(rollout.mask_BT.shape)
        for b, (prompt, completion) in enumerate(zip(rollout.prompt_ids, rollout.completion_ids, strict=True)):
            ids = torch.tensor([prompt + completion])
            with torch.no_grad():
                p, q = (torch.log_softmax(m.module(ids).logits[0].double(), -1) for m in (loop.policy, loop.reference))
            for t, token in enumerate(completion):
                here = len(prompt) + t - 1
                d = p[here, token] - q[here, token]
                out[b, t] = {
                    "k1": d,
                    "k2": d**2 / 2,
                    "k3": torch.exp(-d) - 1 + d,
                    "full": (p[here].exp() * (p[here] - q[here])).sum(),
                }[estimator]
        return out

    @pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
    def test_each_estimator_in_the_reward(self, context: Any, estimator: Any) -> None:
        keep = Keep()
        loop = make_loop(context, keep, kl=KLConfig(coef=0.3, estimator=estimator))
        rollout = given(loop.policy)
        experience, metrics = loop.experience(rollout, torch.zeros(2), 0.3)
        expected = self.plain(loop, rollout, estimator)
        assert torch.allclose(keep.rewards_BT, -0.3 * expected, rtol=1e-3, atol=1e-4)
        assert experience.kl_term is None
        assert metrics["kl"] == pytest.approx(float(self.plain(loop, rollout, "k1").sum(-1).mean()), rel=1e-3)

    def test_in_the_loss_rewards_have_none_of_it(self, context: Any) -> None:
        keep = Keep()
        loop = make_loop(context, keep, kl=KLConfig(coef=0.3, estimator="k2", placement="loss"))
        experience, _ = loop.experience(given(loop.policy), torch.tensor([1.0, 2.0]), 0.3)
        assert keep.rewards_BT.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2]]
        assert experience.kl_term == (0.3, "k2", "corrected")

    def test_full_in_both_places(self, context: Any) -> None:
        keep = Keep()
        loop = make_loop(context, keep, kl=KLConfig(coef=0.3, estimator="full", placement="both"))
        rollout = given(loop.policy)
        experience, _ = loop.experience(rollout, torch.zeros(2), 0.3)
        assert experience.kl_term is not None
        assert torch.allclose(keep.rewards_BT, -0.3 * self.plain(loop, rollout, "full"), rtol=1e-3, atol=1e-4)


def test_full_kl_refuses_a_sampler_that_leaves_ids_out(context: Any) -> None:
    loop = make_loop(context, Keep(), kl=KLConfig(coef=0.3, estimator="full"))
    rollout = given(loop.policy)
    part = replace(rollout, kept_BTK=torch.zeros(*rollout.mask_BT.shape, 1, dtype=torch.long))
    with pytest.raises(UserError, match="the sampler leaves ids out"):
        loop.experience(part, torch.zeros(2), 0.3)


def test_the_greedy_baseline_is_the_score_of_each_prompts_greedy_completion(context: Any) -> None:
    loop = make_loop(context, ReMax(), kl=KLConfig(coef=0.0), samples_per_prompt=2)
    prompts = [loop.prompts[i] for i in (2, 2, 0, 0)]
    rollout = loop.roll_out(prompts, 1)
    scores, _ = loop.reward(rollout)
    experience, _ = loop.experience(rollout, scores, 0.0)
    greedy = loop.sampler.rollout(loop.policy, prompts, Sampling(temperature=0, max_length=6), 9)
    expected = scores - torch.tensor([float(len(t)) for t in greedy.texts])
    assert expected.abs().max() > 0
    assert torch.allclose(experience.advantages_BT[:, 0], expected)
