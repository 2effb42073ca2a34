"""Estimators without a critic, against loops over completions."""

import statistics

import pytest
import torch

from alignkit.protocols import Whitening
from alignkit_plugins.advantage_grpo.estimator import GRPO
from alignkit_plugins.advantage_reinforce_pp.estimator import ReinforcePP
from alignkit_plugins.advantage_remax.estimator import ReMax
from alignkit_plugins.advantage_rloo.estimator import RLOO

GROUPS = [0, 1, 0, 0, 1]
LENGTHS = [3, 1, 4, 2, 4]
MASK = torch.arange(4)[None, :] < torch.tensor(LENGTHS)[:, None]


@pytest.fixture
def rewards() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(5, 4, dtype=torch.float64)  # what stands behind the end must not count


def returns(rewards: torch.Tensor) -> list[float]:
    return [float(rewards[b, :n].sum()) for b, n in enumerate(LENGTHS)]


def spread(values: list[float]) -> list[list[float]]:
    """One value per completion, written to each of its tokens."""
    return [[v] * n + [0.0] * (4 - n) for v, n in zip(values, LENGTHS, strict=True)]


def mates(b: int, whole: list[float], without: bool = False) -> list[float]:
    return [whole[c] for c in range(5) if GROUPS[c] == GROUPS[b] and not (without and c == b)]


@pytest.mark.parametrize("normalise", [True, False])
def test_grpo_compares_with_its_group(rewards: torch.Tensor, normalise: bool) -> None:
    whole = returns(rewards)
    expected = []
    for b in range(5):
        value = whole[b] - statistics.mean(mates(b, whole))
        expected.append(value / (statistics.stdev(mates(b, whole)) + 1e-4) if normalise else value)
    estimator = GRPO(normalise)
    found, _ = estimator(rewards, None, MASK, torch.tensor(GROUPS))
    assert torch.allclose(found, torch.tensor(spread(expected), dtype=torch.float64))
    assert estimator.needs.samples_per_prompt == 2
    assert not estimator.needs.critic


def test_grpo_of_equal_scores_is_zero_not_nan() -> None:
    ones = torch.ones(2, 1)
    found, _ = GRPO(True)(ones, None, ones.bool(), torch.tensor([0, 0]))
    assert found.tolist() == [[0.0], [0.0]]


def test_rloo_leaves_its_own_score_out_of_the_baseline(rewards: torch.Tensor) -> None:
    whole = returns(rewards)
    expected = [whole[b] - statistics.mean(mates(b, whole, without=True)) for b in range(5)]
    found, _ = RLOO()(rewards, None, MASK, torch.tensor(GROUPS))
    assert torch.allclose(found, torch.tensor(spread(expected), dtype=torch.float64))


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_pp_sums_the_rewards_to_come(rewards: torch.Tensor, gamma: float, baseline: bool) -> None:
    whole = returns(rewards)
    estimator = ReinforcePP(gamma, baseline, Whitening())
    found, to_come = estimator(rewards, None, MASK, torch.tensor(GROUPS))
    for b, n in enumerate(LENGTHS):
        for t in range(n):
            expected = sum(gamma ** (s - t) * float(rewards[b, s]) for s in range(t, n))
            assert float(to_come[b, t]) == pytest.approx(expected)
            less = statistics.mean(mates(b, whole)) if baseline else 0.0
            assert float(found[b, t]) == pytest.approx(expected - less)
        assert not found[b, n:].any()
    assert estimator.needs.whiten == Whitening()
    assert estimator.needs.samples_per_prompt == (2 if baseline else 1)


def test_remax_compares_with_the_greedy_completion(rewards: torch.Tensor) -> None:
    greedy = torch.tensor([0.5, -1.0, 0.5, 0.5, -1.0], dtype=torch.float64)
    whole = returns(rewards)
    found, _ = ReMax()(rewards, greedy[:, None] * MASK, MASK, torch.tensor(GROUPS))
    expected = spread([r - float(g) for r, g in zip(whole, greedy, strict=True)])
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))
    assert ReMax.needs.greedy_baseline
