"""For every check of advantage estimators a mistake that it has to notice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit import Component
from alignkit.components import NoConfig
from alignkit.masked import group_statistics
from alignkit.protocols import Needs
from alignkit.testing import AdvantageContract
from helpers.planted import Fault, checks_of, planted, plugin_of

Results = tuple[Tensor, Tensor]
TWO = Needs(samples_per_prompt=2)


class Sound:
    """A score against the mean of its group; each fault changes one thing."""

    needs = TWO

    def __call__(self, rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
        return_B = (rewards_BT * mask_BT).sum(-1)
        advantage_B = return_B - group_statistics(return_B, group_B).mean_B
        return advantage_B[:, None] * mask_BT, return_B[:, None] * mask_BT


def fault(check: str, build: Callable[[], Any], name: str = "") -> Fault:
    return Fault(check, Component("broken", lambda c, _: build(), NoConfig, "broken on purpose"), name=name)


@dataclass
class Function:
    """An estimator made of a function."""

    call: Callable[..., Any]
    needs: Any = TWO

    def __call__(self, rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Any:
        return self.call(rewards_BT, values_BT, mask_BT, group_B)


def function(check: str, call: Callable[..., Any], needs: Any = TWO, name: str = "") -> Fault:
    return fault(check, lambda: Function(call, needs), name)


def changed(change: Callable[[Tensor], Tensor]) -> Callable[..., Results]:
    """Sound, with both results changed."""

    def call(*inputs: Any) -> Results:
        advantages_BT, returns_BT = Sound()(*inputs)
        return change(advantages_BT), change(returns_BT)

    return call


def mean_over_padding(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    rewards_BT = rewards_BT * mask_BT
    centred_BT = (rewards_BT - rewards_BT.mean()) * mask_BT
    return centred_BT, rewards_BT


def sum_without_mask(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    return_B = rewards_BT.sum(-1)
    advantage_B = return_B - group_statistics(return_B, group_B).mean_B
    return advantage_B[:, None] * mask_BT, return_B[:, None] * mask_BT


def neighbours_are_a_group(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    return_B = (rewards_BT * mask_BT).sum(-1)
    advantage_B = return_B - return_B.view(-1, 2).mean(-1).repeat_interleave(2)
    return advantage_B[:, None] * mask_BT, return_B[:, None] * mask_BT


def group_number_counts(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    advantages_BT, returns_BT = Sound()(rewards_BT, None, mask_BT, group_B)
    return advantages_BT + group_B[:, None] * mask_BT, returns_BT


def in_place(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    rewards_BT -= 0.5
    return Sound()(rewards_BT, values_BT, mask_BT, group_B)


def seeded_globally(*inputs: Any) -> Results:
    torch.manual_seed(0)
    return Sound()(*inputs)


def no_epsilon(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    return_B = (rewards_BT * mask_BT).sum(-1)
    stats = group_statistics(return_B, group_B)
    advantage_B = (return_B - stats.mean_B) / torch.sqrt(stats.squares_B / (stats.count_B - 1))
    return advantage_B[:, None] * mask_BT, return_B[:, None] * mask_BT


def exponential_weights(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    return_B = (rewards_BT * mask_BT).sum(-1)
    advantage_B = torch.exp(return_B)
    return advantage_B[:, None] * mask_BT, return_B[:, None] * mask_BT


def unbiased_deviation_over_tokens(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    rewards_BT = rewards_BT * mask_BT
    squares_B1 = (rewards_BT - rewards_BT.mean(-1, keepdim=True)).square().sum(-1, keepdim=True)
    return rewards_BT / torch.sqrt(squares_B1 / (rewards_BT.shape[1] - 1)), rewards_BT


def leave_one_out(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    """Of one sample no other is left: 0 / 0. It does not say that it needs two."""
    return_B = (rewards_BT * mask_BT).sum(-1)
    stats = group_statistics(return_B, group_B)
    advantage_B = return_B - (stats.mean_B * stats.count_B - return_B) / (stats.count_B - 1)
    return advantage_B[:, None] * mask_BT, return_B[:, None] * mask_BT


class NeedsOnDemand(Sound):
    """Notices at its first batch that it wants more samples."""

    def __call__(self, *inputs: Any) -> Results:
        self.needs = Needs(samples_per_prompt=4)
        return super().__call__(*inputs)


class DiscountsOfFirstBatch(Sound):
    """Discounts are computed once, for the width of the first batch."""

    discounts_T: Tensor | None = None

    def __call__(self, rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
        width = rewards_BT.shape[1]
        if self.discounts_T is None:
            self.discounts_T = 0.9 ** torch.arange(width)
        kept_T = torch.nn.functional.pad(self.discounts_T, (0, max(0, width - len(self.discounts_T))))[:width]
        return super().__call__(rewards_BT * kept_T, values_BT, mask_BT, group_B)


class LearnedScale(Sound):
    """A parameter in the advantage."""

    def __init__(self) -> None:
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def __call__(self, *inputs: Any) -> Results:
        advantages_BT, returns_BT = super().__call__(*inputs)
        return advantages_BT * self.scale, returns_BT


def minus(x_BT: Tensor) -> Tensor:
    return -x_BT


def score_alone(rewards_BT: Tensor, values_BT: Any, mask_BT: Tensor, group_B: Tensor) -> Results:
    """Takes the last token's reward for that of the completion."""
    last_B1 = mask_BT.long().sum(-1, keepdim=True) - 1
    score_BT = torch.zeros_like(rewards_BT).scatter(1, last_B1, rewards_BT.gather(1, last_B1))
    return Sound()(score_BT, values_BT, mask_BT, group_B)


class SignOfTheDifference(Sound):
    """Knows better and worse than the mean, and nothing between."""

    def __call__(self, *inputs: Any) -> Results:
        advantages_BT, returns_BT = super().__call__(*inputs)
        return advantages_BT.sign(), returns_BT


FAULTS = (
    function("test_needs_are_stated", Sound(), {"critic": False}, "dict"),
    function("test_needs_are_stated", Sound(), Needs(samples_per_prompt=2.5), "float"),  # type: ignore[arg-type]
    function("test_needs_are_stated", Sound(), Needs(samples_per_prompt=0), "none"),
    function("test_needs_are_stated", Sound(), Needs(critic=True, greedy_baseline=True), "both"),
    function("test_needs_are_stated", Sound(), Needs(whiten=True), "whiten"),  # type: ignore[arg-type]
    fault("test_needs_do_not_change", NeedsOnDemand),
    function("test_asks_only_for_what_it_uses", Sound(), Needs(critic=True), "critic"),
    function("test_asks_only_for_what_it_uses", Sound(), Needs(greedy_baseline=True), "greedy"),
    function("test_results_have_the_shape_and_type_of_rewards", lambda *i: Sound()(*i)[0], name="alone"),
    function("test_results_have_the_shape_and_type_of_rewards", changed(lambda x: x[:, 0]), name="per_row"),
    function("test_results_have_the_shape_and_type_of_rewards", changed(lambda x: x[:, :-1]), name="narrow"),
    function("test_results_have_the_shape_and_type_of_rewards", changed(lambda x: x.double()), name="double"),
    function("test_results_are_where_the_rewards_are", changed(lambda x: x.to("meta"))),
    function("test_zero_outside_the_mask", changed(lambda x: x.amax(-1, keepdim=True).expand(x.shape))),
    function("test_more_padding_changes_nothing", mean_over_padding),
    function("test_what_stands_in_padding_does_not_count", sum_without_mask),
    function("test_order_of_completions_does_not_matter", neighbours_are_a_group),
    function("test_group_numbers_are_labels", group_number_counts),
    fault("test_batches_of_other_shapes", DiscountsOfFirstBatch),
    function("test_inputs_are_not_changed", in_place),
    function("test_same_each_time", changed(lambda x: x + 1e-3 * torch.randn(()))),
    function("test_global_random_state_is_left_alone", seeded_globally),
    fault("test_results_carry_no_gradient", LearnedScale),
    function("test_better_completions_have_higher_advantages", changed(minus)),
    function("test_better_completions_have_higher_advantages", changed(torch.zeros_like), name="all_alike"),
    function("test_every_reward_counts", score_alone),
    function("test_finite_for_equal_scores", no_epsilon),
    function("test_finite_for_large_rewards", exponential_weights),
    function("test_finite_for_completions_of_one_token", unbiased_deviation_over_tokens),
    function("test_finite_for_one_prompt", leave_one_out, Needs()),
)
globals().update(planted(AdvantageContract, FAULTS))


class TestSound(AdvantageContract):
    """What the faults are made of has none."""

    component = "sound"
    plugin = plugin_of(AdvantageContract, Component("sound", lambda c, _: Sound(), NoConfig, "centred in its group"))
    # Made in memory, so that no process can import it.
    test_registration_imports_nothing_heavy = None


class TestSigns(TestSound):
    """Advantages need not be as many as scores."""

    plugin = plugin_of(AdvantageContract, Component("sound", lambda c, _: SignOfTheDifference(), NoConfig, "signs"))


def test_every_check_has_a_fault() -> None:
    assert checks_of(AdvantageContract) == {f.check for f in FAULTS}
