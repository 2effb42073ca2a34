"""Masked reductions against lists and loops."""

import statistics

import numpy as np
import pytest
import torch

from alignkit.masked import group_statistics, token_weights, whiten

LENGTHS = [1, 4, 2]
MASK = torch.arange(4)[None, :] < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize(("variance", "deviation"), [("biased", statistics.pstdev), ("unbiased", statistics.stdev)])
def test_whiten_with_either_variance(variance: str, deviation: object) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64) * 4 + 2
    real = x[MASK].tolist()
    white = whiten(x, MASK, variance=variance)  # type: ignore[arg-type]
    mean = statistics.mean(real)
    expected = [(v - mean) / deviation(real) for v in real]  # type: ignore[operator]
    assert np.allclose(white[MASK].numpy(), expected, atol=1e-7)
    assert not white[~MASK].any()


def test_one_token_has_no_unbiased_variance_and_becomes_zero() -> None:
    assert whiten(torch.tensor([[3.0]]), torch.tensor([[True]]), variance="unbiased").tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("aggregation", "weight"),
    [
        ("token_mean", lambda n: 1 / 7),
        ("sequence_mean", lambda n: 1 / (3 * n)),
        ("sequence_sum", lambda n: 1 / 3),
        ("fixed_length", lambda n: 1 / (3 * 5)),
    ],
)
def test_token_weights(aggregation: str, weight: object) -> None:
    found = token_weights(MASK, aggregation, 5)  # type: ignore[arg-type]
    for b, n in enumerate(LENGTHS):
        expected = [weight(n)] * n + [0.0] * (4 - n)  # type: ignore[operator]
        assert found[b].tolist() == pytest.approx(expected)


def test_group_statistics_of_unequal_groups() -> None:
    x = torch.tensor([1.0, 5.0, 2.0, 3.0, 9.0])
    stats = group_statistics(x, torch.tensor([0, 1, 0, 0, 1]))
    assert stats.count_B.tolist() == [3, 2, 3, 3, 2]
    assert stats.mean_B.tolist() == [2, 7, 2, 2, 7]
    assert stats.squares_B.tolist() == [2, 8, 2, 2, 8]
