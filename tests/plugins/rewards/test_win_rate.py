"""The win rate counts ties half, and its interval covers what it should."""

import pytest
import torch

from alignkit_plugins.step_evaluate.step import win_rate


def test_ties_count_half() -> None:
    rate = win_rate(torch.tensor([2.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0]), 200, 0)
    assert rate["mean"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert rate["n"] == 4


def test_the_interval_has_the_width_of_the_normal_approximation() -> None:
    torch.manual_seed(0)
    after, before = torch.randn(400) + 0.5, torch.randn(400)
    rate = win_rate(after, before, 2000, 0)
    half = 1.96 * (rate["mean"] * (1 - rate["mean"]) / 400) ** 0.5
    assert rate["low"] < rate["mean"] < rate["high"]
    assert rate["high"] - rate["low"] == pytest.approx(2 * half, rel=0.1)


def test_the_interval_covers_the_true_rate_about_95_times_of_100() -> None:
    torch.manual_seed(1)
    covered = 0
    for seed in range(100):
        rate = win_rate((torch.rand(80) < 0.6).float(), torch.full((80,), 0.5), 300, seed)
        covered += rate["low"] <= 0.6 <= rate["high"]
    assert 88 <= covered <= 100


def test_the_same_seed_gives_the_same_interval_and_swapping_gives_the_rest() -> None:
    torch.manual_seed(2)
    after, before = torch.randn(100), torch.randn(100)
    rate = win_rate(after, before, 500, 3)
    assert win_rate(after, before, 500, 3) == rate
    assert win_rate(before, after, 500, 3)["mean"] == pytest.approx(1 - rate["mean"])


def test_if_all_is_tied_the_rate_is_one_half() -> None:
    rate = win_rate(torch.ones(10), torch.ones(10), 200, 0)
    assert (rate["mean"], rate["low"], rate["high"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("n", [1, 10])
def test_if_all_is_won_or_lost_the_interval_is_the_exact_binomial_one(n: int) -> None:
    """Clopper and Pearson: the bound b with b ** n = 0.025."""
    bound = 0.025 ** (1 / n)
    won = win_rate(torch.ones(n), torch.zeros(n), 200, 0)
    assert (won["mean"], won["high"]) == (1.0, 1.0)
    assert won["low"] == pytest.approx(bound)
    lost = win_rate(torch.zeros(n), torch.ones(n), 200, 0)
    assert (lost["mean"], lost["low"]) == (0.0, 0.0)
    assert lost["high"] == pytest.approx(1 - bound)
