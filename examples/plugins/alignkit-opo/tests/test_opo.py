"""The baseline against a loop written from the paper."""

import torch

from alignkit_opo.opo import OPO


def by_loop(rewards: list[list[float]], lengths: list[int], groups: list[int]) -> list[float]:
    """R_i - sum_j l_j R_j / sum_j l_j, one completion at a time in Python's float64."""
    returns = [sum(row[:length]) for row, length in zip(rewards, lengths, strict=True)]
    advantages = []
    for i, group in enumerate(groups):
        same = [j for j, other in enumerate(groups) if other == group]
        baseline = sum(lengths[j] * returns[j] for j in same) / sum(lengths[j] for j in same)
        advantages.append(returns[i] - baseline)
    return advantages


def masks(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def test_equals_the_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, groups = [3, 9, 1, 5, 2, 8, 4], [0, 1, 0, 2, 1, 1, 2]
    rewards_BT = torch.randn(7, 9, generator=generator, dtype=torch.float64)
    advantages_BT, returns_BT = OPO()(rewards_BT, None, masks(lengths), torch.tensor(groups))
    for b, (expected, length) in enumerate(zip(by_loop(rewards_BT.tolist(), lengths, groups), lengths, strict=True)):
        torch.testing.assert_close(advantages_BT[b, :length], torch.full((length,), expected, dtype=torch.float64))
        assert advantages_BT[b, length:].abs().sum() == 0
        assert torch.allclose(returns_BT[b, :length], rewards_BT[b, :length].sum())


def test_numbers_by_hand() -> None:
    """Lengths 1 and 3, rewards 4 and 0: b = (1 * 4 + 3 * 0) / 4 = 1, where the plain mean is 2."""
    rewards_BT = torch.tensor([[4.0, 0, 0], [0, 0, 0]])
    advantages_BT, _ = OPO()(rewards_BT, None, masks([1, 3]), torch.tensor([0, 0]))
    assert advantages_BT.tolist() == [[3, 0, 0], [-1, -1, -1]]


def test_equal_lengths_give_the_plain_mean() -> None:
    rewards_BT = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    group_B = torch.tensor([0, 0, 0, 1, 1, 1])
    advantages_BT, _ = OPO()(rewards_BT, None, masks([4] * 6), group_B)
    return_GK = rewards_BT.sum(-1).view(2, 3)
    expected_B = (return_GK - return_GK.mean(-1, keepdim=True)).view(6)
    torch.testing.assert_close(advantages_BT, expected_B[:, None].expand(6, 4))


def test_length_weighted_advantages_sum_to_zero() -> None:
    """What defines b: sum_i l_i (R_i - b) = 0 for each prompt, that is the sum over all its tokens."""
    lengths, group_B = [2, 7, 4, 3], torch.tensor([0, 0, 1, 1])
    rewards_BT = torch.randn(4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    advantages_BT, _ = OPO()(rewards_BT, None, masks(lengths), group_B)
    sums = [float(advantages_BT[group_B == g].sum()) for g in (0, 1)]
    assert max(map(abs, sums)) < 1e-12
