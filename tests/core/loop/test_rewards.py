"""Token rewards, whitening, missing stop and the adaptive coefficient against loops and the papers' numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import Fault
from alignkit.kl import AdaptiveKL
from alignkit.loop.config import MissingStopConfig
from alignkit.loop.rewards import token_rewards
from alignkit.loop.scores import checked_scores, penalise_missing_stop
from alignkit.masked import whiten
from helpers.context import TextScores, make_rollout

quick = settings(max_examples=25, deadline=None, derandomize=True)
lengths_lists = st.lists(st.integers(1, 8), min_size=1, max_size=5)


def prefix_mask(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


@quick
@given(lengths_lists, st.floats(0, 1), st.integers(0, 999))
def test_token_rewards_are_the_kl_penalty_with_the_score_on_the_last_token(
    lengths: list[int], beta: float, seed: int
) -> None:
    torch.manual_seed(seed)
    mask = prefix_mask(lengths)
    logp, ref = torch.randn(2, *mask.shape, dtype=torch.float64)
    scores = torch.randn(len(lengths), dtype=torch.float64)
    rewards = token_rewards(scores, logp - ref, mask, beta)
    for b, n in enumerate(lengths):
        for t in range(n):
            expected = -beta * float(logp[b, t] - ref[b, t]) + (float(scores[b]) if t == n - 1 else 0.0)
            assert float(rewards[b, t]) == pytest.approx(expected, abs=1e-9)
        assert not rewards[b, n:].any()


@quick
@given(lengths_lists.filter(lambda n: sum(n) > 1), st.booleans(), st.integers(0, 999))
def test_whiten_uses_the_biased_variance_of_real_tokens(lengths: list[int], shift: bool, seed: int) -> None:
    torch.manual_seed(seed)
    mask = prefix_mask(lengths)
    x = torch.randn(mask.shape, dtype=torch.float64) * 3 + 5
    x[~mask] = 1e6  # what stands behind the end must not count
    real = [float(x[b, t]) for b, n in enumerate(lengths) for t in range(n)]
    mean = sum(real) / len(real)
    variance = sum((v - mean) ** 2 for v in real) / len(real)
    white = whiten(x, mask, shift_mean=shift)
    expected = [(v - mean) / math.sqrt(variance + 1e-8) + (0 if shift else mean) for v in real]
    assert np.allclose(white[mask].numpy(), expected, atol=1e-9)
    assert not white[~mask].any()


def test_one_token_whitens_to_zero_not_nan() -> None:
    assert whiten(torch.tensor([[3.0]]), torch.tensor([[True]])).tolist() == [[0.0]]


class TestMissingStop:
    scores = torch.tensor([2.0, 3.0])
    stopped = torch.tensor([True, False])

    def test_replace_puts_the_value_in_place_of_the_score(self) -> None:
        config = MissingStopConfig(mode="replace", value=-1.0)
        assert penalise_missing_stop(self.scores, self.stopped, config).tolist() == [2.0, -1.0]

    def test_subtract_lowers_the_score(self) -> None:
        config = MissingStopConfig(mode="subtract", value=1.0)
        assert penalise_missing_stop(self.scores, self.stopped, config).tolist() == [2.0, 2.0]

    def test_without_a_setting_nothing_changes(self) -> None:
        assert penalise_missing_stop(self.scores, self.stopped, None) is self.scores


class TestAdaptiveKL:
    """Ziegler et al. 2019, section 2.2, and lm-human-preferences' AdaptiveKLController."""

    def test_the_openai_numbers(self) -> None:
        # target 6 nats, horizon 10,000, init 0.15, batches of 512 with KL 6.6 and 30
        kl = AdaptiveKL(0.15, 6.0, 10_000)
        kl.update(6.6, 512)
        assert kl.coef == pytest.approx(0.15 * (1 + 0.1 * 512 / 10_000), rel=1e-12)
        before = kl.coef
        kl.update(30.0, 512)  # clipped at 0.2
        assert kl.coef == pytest.approx(before * 1.01024, rel=1e-12)

    def test_a_kl_below_the_target_lowers_the_coefficient_at_most_by_the_clip(self) -> None:
        kl = AdaptiveKL(0.1, 6.0, 1000)
        kl.update(0.0, 100)
        assert kl.coef == pytest.approx(0.1 * (1 - 0.2 * 0.1), rel=1e-12)
        kl.update(-5.0, 100)
        assert kl.coef == pytest.approx(0.1 * 0.98**2, rel=1e-12)

    def test_at_the_target_or_without_one_it_stays(self) -> None:
        for target in (6.0, None):
            kl = AdaptiveKL(0.1, target, 10_000)
            kl.update(6.0, 512)
            assert kl.coef == 0.1


class TestCheckedScores:
    def test_a_score_that_is_not_finite_is_a_fault_that_shows_the_completion(self, llama) -> None:
        rollout = make_rollout(llama, ["a", "b"], [llama.encoder.text("fine"), llama.encoder.text("broken")])
        source = TextScores(lambda t: float("nan") if t == "broken" else 1.0)
        with pytest.raises(Fault, match=r"1 of 2 completions as not finite, first nan for 'broken'"):
            checked_scores(source, rollout)

    def test_a_wrong_shape_is_a_fault(self, llama) -> None:
        rollout = make_rollout(llama, ["a"], [[7]])

        class Wrong:
            def score(self, rollout: object) -> torch.Tensor:
                return torch.zeros(3)

        with pytest.raises(Fault, match=r"shape \(3,\) for 1"):
            checked_scores(Wrong(), rollout)
