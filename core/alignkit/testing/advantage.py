"""What an advantage estimator owes the alignment loop."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from alignkit.components import Kind
from alignkit.context import StepContext
from alignkit.manager import Registered
from alignkit.protocols import Advantage, Needs, Whitening
from alignkit.testing.contract import ComponentContract
from alignkit.testing.randomness import assert_unused, global_seed, global_states

PROMPTS = 3
GARBAGE = 1e30


@dataclass(frozen=True)
class RewardBatch:
    """What the loop gives an estimator; `values_BT` as `Needs` asks for them. All but the mask is zero outside it."""

    rewards_BT: Tensor
    values_BT: Tensor | None
    mask_BT: Tensor
    group_B: Tensor

    def padded(self, columns: int, content: float = 0.0) -> "RewardBatch":
        """With further columns of padding; padding old and new holds `content`."""

        def widened(x_BT: Tensor) -> Tensor:
            wide_BT = torch.nn.functional.pad(x_BT, (0, columns))
            return wide_BT.masked_fill(~torch.nn.functional.pad(self.mask_BT, (0, columns)), content)

        values_BT = None if self.values_BT is None else widened(self.values_BT)
        mask_BT = torch.nn.functional.pad(self.mask_BT, (0, columns))
        return replace(self, rewards_BT=widened(self.rewards_BT), values_BT=values_BT, mask_BT=mask_BT)

    def rows(self, order_B: Tensor) -> "RewardBatch":
        """Its completions in another order."""
        values_BT = None if self.values_BT is None else self.values_BT[order_B]
        return RewardBatch(self.rewards_BT[order_B], values_BT, self.mask_BT[order_B], self.group_B[order_B])

    def scored(self, scores_B: Tensor) -> "RewardBatch":
        """With one score at the last token of each completion and no other reward."""
        last_B1 = self.mask_BT.long().sum(-1, keepdim=True) - 1
        return replace(self, rewards_BT=torch.zeros_like(self.rewards_BT).scatter(1, last_B1, scores_B[:, None]))

    def tensors(self) -> list[Tensor]:
        """The tensors that are there."""
        return [x for x in (self.rewards_BT, self.values_BT, self.mask_BT, self.group_B) if x is not None]

    def given_to(self, advantage: Advantage) -> tuple[Tensor, Tensor]:
        """What the estimator makes of it."""
        return advantage(self.rewards_BT, self.values_BT, self.mask_BT, self.group_B)


def reward_batch(needs: Needs, prompts: int = PROMPTS, length: int = 7, seed: int = 0) -> RewardBatch:
    """Random rewards as the loop would give them: a KL penalty at each token and a score at the last one.

    Every prompt has as many samples as the estimator asks for, at least two; the second one twice as many, as a
    prompt has that is drawn twice. Completions have 1 to `length` tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = max(2, needs.samples_per_prompt)
    sizes = [samples * (2 if prompt == 1 else 1) for prompt in range(prompts)]
    group_B = torch.arange(prompts).repeat_interleave(torch.tensor(sizes))
    lengths_B = torch.randint(1, length + 1, (len(group_B),), generator=generator)
    lengths_B[0], lengths_B[1] = length, 1
    mask_BT = torch.arange(length) < lengths_B[:, None]
    penalties_BT = -0.1 * torch.rand(mask_BT.shape, generator=generator) * mask_BT
    scores_B = torch.randn(len(group_B), generator=generator)
    rewards_BT = penalties_BT.scatter_add(1, lengths_B[:, None] - 1, scores_B[:, None])
    values_BT = None
    if needs.greedy_baseline:
        values_BT = torch.randn(prompts, generator=generator)[group_B][:, None] * mask_BT
    elif needs.critic:
        values_BT = torch.randn(mask_BT.shape, generator=generator) * mask_BT
    return RewardBatch(rewards_BT, values_BT, mask_BT, group_B)


class AdvantageContract(ComponentContract):
    """The checks of advantage estimators. The truth is in the definition: what may not matter is changed."""

    kind: ClassVar[Kind] = "advantage"
    stateful: ClassVar[bool] = False
    """True for an estimator that remembers earlier batches, such as a moving baseline."""
    rtol: ClassVar[float] = 1e-4
    atol: ClassVar[float] = 1e-5
    """How far apart two sums of the same numbers in another order may be."""

    @pytest.fixture
    def estimate(
        self, registered: Registered, config: Any, context: StepContext
    ) -> Callable[[RewardBatch], tuple[Tensor, Tensor]]:
        """Advantages and returns of a batch, from an estimator built for it alone."""
        return lambda batch: batch.given_to(registered.build(config, context))

    @pytest.fixture
    def batch(self, built: Advantage) -> RewardBatch:
        """A batch of three prompts with as many samples as the estimator asks for."""
        return reward_batch(built.needs)

    def assert_same(self, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], why: str) -> None:
        """Both advantages and returns are close."""
        for name, x_BT, y_BT in zip(("advantages", "returns"), found, expected, strict=True):
            assert x_BT.shape == y_BT.shape, f"{name}: {why}: shape {list(x_BT.shape)}, not {list(y_BT.shape)}"
            same = torch.allclose(x_BT, y_BT, rtol=self.rtol, atol=self.atol)
            assert same, f"{name}: {why}: {x_BT.tolist()}, not {y_BT.tolist()}"

    def test_needs_are_stated(self, built: Advantage) -> None:
        """The loop reads `needs` before it builds a critic and draws samples."""
        needs = built.needs
        assert isinstance(needs, Needs), f"needs is an alignkit.protocols.Needs, not {needs!r}"
        assert type(needs.samples_per_prompt) is int, f"samples_per_prompt is {needs.samples_per_prompt!r}"
        assert needs.samples_per_prompt >= 1, f"samples_per_prompt is {needs.samples_per_prompt}"
        assert needs.whiten is None or isinstance(needs.whiten, Whitening), f"whiten is {needs.whiten!r}"
        both = needs.critic and needs.greedy_baseline
        assert not both, "there is one `values_BT`: from a critic or of the greedy completion, not both"

    def test_needs_do_not_change(self, built: Advantage, batch: RewardBatch) -> None:
        """What the loop has built by the first batch serves for all of them."""
        before = built.needs
        batch.given_to(built)
        assert built.needs == before

    def test_asks_only_for_what_it_uses(self, estimate: Any, batch: RewardBatch) -> None:
        """A critic is a second model to train, a greedy completion a second sampling: who asks for one reads it."""
        if batch.values_BT is None:
            pytest.skip("it asks for neither a critic nor a greedy completion")
        other = replace(batch, values_BT=batch.values_BT + batch.mask_BT * (batch.group_B[:, None] + 1.0))
        changed = any(not torch.equal(x, y) for x, y in zip(estimate(batch), estimate(other), strict=True))
        assert changed, "other values give the same advantages and returns: drop it from needs"

    def test_results_have_the_shape_and_type_of_rewards(self, estimate: Any, batch: RewardBatch) -> None:
        """Advantages and returns are float32 numbers for each token: [B, T], as wide as the mask it was given."""
        results = estimate(batch)
        assert isinstance(results, tuple), f"advantages and returns are a tuple, not {type(results).__name__}"
        assert len(results) == 2, f"{len(results)} results, not advantages and returns"
        for name, x_BT in zip(("advantages", "returns"), results, strict=True):
            assert x_BT.shape == batch.mask_BT.shape, (
                f"{name} are {tuple(x_BT.shape)}, {tuple(batch.mask_BT.shape)} due"
            )
            assert x_BT.dtype == torch.float32, f"{name} are {x_BT.dtype}"

    def test_results_are_where_the_rewards_are(self, estimate: Any, batch: RewardBatch) -> None:
        """The loop goes on with them beside the rollout, which waits in main memory."""
        devices = [x.device for x in estimate(batch)]
        assert devices == [batch.rewards_BT.device] * 2, f"results are on {devices}"

    def test_zero_outside_the_mask(self, estimate: Any, batch: RewardBatch) -> None:
        """Means and sums over a batch count tokens by the mask; a number behind the end would join them."""
        for name, x_BT in zip(("advantages", "returns"), estimate(batch), strict=True):
            assert not (x_BT * ~batch.mask_BT).any(), f"{name} are not zero outside the mask"

    def test_more_padding_changes_nothing(self, estimate: Any, batch: RewardBatch) -> None:
        """How long the longest completion of a batch is has nothing to do with another one's advantages."""
        wide, width = estimate(batch.padded(5)), batch.mask_BT.shape[1]
        self.assert_same((wide[0][:, :width], wide[1][:, :width]), estimate(batch), "five columns of padding more")

    def test_what_stands_in_padding_does_not_count(self, estimate: Any, batch: RewardBatch) -> None:
        """Only tokens of the mask exist: sums are taken under it, whatever finite number stands elsewhere."""
        self.assert_same(estimate(batch.padded(1, GARBAGE)), estimate(batch.padded(1)), f"padding holds {GARBAGE:g}")

    def test_order_of_completions_does_not_matter(self, estimate: Any, batch: RewardBatch) -> None:
        """Samples of one prompt need not stand side by side: `group_B` says which belong together."""
        order_B = torch.randperm(len(batch.group_B), generator=torch.Generator().manual_seed(1))
        advantages_BT, returns_BT = estimate(batch)
        expected = (advantages_BT[order_B], returns_BT[order_B])
        self.assert_same(estimate(batch.rows(order_B)), expected, "completions in another order")

    def test_group_numbers_are_labels(self, estimate: Any, batch: RewardBatch) -> None:
        """`group_B` tells prompts apart; which number a prompt has means nothing."""
        other = replace(batch, group_B=batch.group_B.max() - batch.group_B)
        self.assert_same(estimate(other), estimate(batch), "prompts numbered backwards")

    def test_batches_of_other_shapes(self, built: Advantage, estimate: Any, batch: RewardBatch) -> None:
        """Batches differ in their longest completion, and where the score comes after the stop token they are a
        column wider: nothing of one batch's size is kept for the next."""
        if self.stateful:
            pytest.skip("it remembers earlier batches")
        batch.given_to(built)
        for prompts, length in ((2, 12), (4, 3)):
            other = reward_batch(built.needs, prompts, length, seed=2)
            self.assert_same(other.given_to(built), estimate(other), f"{prompts} prompts, {length} tokens, second call")

    def test_inputs_are_not_changed(self, built: Advantage, batch: RewardBatch) -> None:
        """The loop logs rewards and gives the same values to the optimizer stage: no in-place operations on inputs."""
        before = [x.clone() for x in batch.tensors()]
        batch.given_to(built)
        names = ("rewards_BT", *(("values_BT",) if batch.values_BT is not None else ()), "mask_BT", "group_B")
        changed = [name for name, x, y in zip(names, before, batch.tensors(), strict=True) if not torch.equal(x, y)]
        assert changed == [], f"{', '.join(changed)} changed in place: clone first"

    def test_same_each_time(self, estimate: Any, batch: RewardBatch) -> None:
        """A run is repeated by its seed: equal inputs give equal bits, whatever was drawn elsewhere before."""
        results = []
        for seed in (0, 1):
            with global_seed(seed):
                results.append(estimate(batch))
        for x_BT, y_BT in zip(*results, strict=True):
            assert torch.equal(x_BT, y_BT), "the same batch twice gives different numbers"

    def test_global_random_state_is_left_alone(self, built: Advantage, batch: RewardBatch) -> None:
        """Who draws from the global generators changes what everybody else draws: take a generator of one's own."""
        before = global_states()
        batch.given_to(built)
        assert_unused(before)

    def test_results_carry_no_gradient(self, estimate: Any, batch: RewardBatch) -> None:
        """Advantages are constants of the policy's loss; a graph behind them would be trained by accident."""
        for name, x_BT in zip(("advantages", "returns"), estimate(batch), strict=True):
            assert not x_BT.requires_grad, f"{name} require gradients: detach them"

    def test_better_completions_have_higher_advantages(self, estimate: Any, batch: RewardBatch) -> None:
        """Of completions of a prompt that differ in their score alone, no better one is reinforced less, the best more
        than the worst. Estimators that look at signs or ranks may treat neighbours alike."""
        alike = batch.rows(torch.zeros_like(batch.group_B))
        scores_B = torch.linspace(-1.0, 1.0, len(batch.group_B))
        sums_B = estimate(alike.scored(scores_B))[0].sum(-1)
        rising = bool((sums_B.diff() >= 0).all()) and bool(sums_B[-1] > sums_B[0])
        assert rising, f"scores {scores_B.tolist()} have summed advantages {sums_B.tolist()}"

    def test_every_reward_counts(self, estimate: Any, batch: RewardBatch) -> None:
        """The loop's KL penalties stand before the last token: who reads the score alone trains without them."""
        for column in (0, batch.mask_BT.shape[1] // 2):  # the first completion is the longest
            reward_BT = torch.zeros_like(batch.rewards_BT)
            reward_BT[0, column] = 10.0
            low_BT, high_BT = (
                estimate(replace(batch, rewards_BT=batch.rewards_BT + sign * reward_BT))[0] for sign in (-1.0, 1.0)
            )
            assert not torch.equal(low_BT, high_BT), f"the reward of token {column} changes no advantage"

    def test_finite_for_equal_scores(self, estimate: Any, batch: RewardBatch) -> None:
        """Every sample of a prompt may be right, or wrong: a deviation of 0 is no division by 0."""
        for score in (0.0, 1.0):
            self.assert_finite(estimate(batch.scored(torch.full((len(batch.group_B),), score))), f"all scores {score}")

    def test_finite_for_large_rewards(self, estimate: Any, batch: RewardBatch) -> None:
        """A reward model's scores have no scale of their own."""
        for factor in (1e6, 1e-30):
            self.assert_finite(estimate(replace(batch, rewards_BT=batch.rewards_BT * factor)), f"rewards * {factor:g}")

    def test_finite_for_completions_of_one_token(self, built: Advantage, estimate: Any) -> None:
        """A policy may stop at once, and a whole batch may be one token wide."""
        self.assert_finite(estimate(reward_batch(built.needs, length=1)), "completions of one token")

    def test_finite_for_one_prompt(self, built: Advantage, estimate: Any) -> None:
        """A batch may hold one prompt, with just the samples that the estimator asks for."""
        needs = built.needs
        batch = reward_batch(needs, prompts=1).rows(torch.arange(needs.samples_per_prompt))
        self.assert_finite(estimate(batch), f"one prompt, samples: {needs.samples_per_prompt}")

    def assert_finite(self, results: tuple[Tensor, Tensor], why: str) -> None:
        """No NaN and no infinity."""
        for name, x_BT in zip(("advantages", "returns"), results, strict=True):
            assert bool(torch.isfinite(x_BT).all()), f"{name} are not finite for {why}"
