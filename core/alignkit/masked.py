"""Reductions over the tokens of a mask, over the whole batch: each of several processes has all of it."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

WHITEN_EPS = 1e-8
Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]


def whiten(
    x_BT: Tensor,
    mask_BT: Tensor,
    shift_mean: bool = True,
    variance: Literal["biased", "unbiased"] = "biased",
) -> Tensor:
    """(x - mean) rsqrt(var + 1e-8) over the tokens of the mask; without `shift_mean` the mean is added back; [B, T].

    `variance`: divided by n (OpenAI's lm-human-preferences) or by n - 1 (TRL, verl).
    """
    x_N = x_BT[mask_BT].double()
    mean = x_N.sum() / len(x_N)
    squares = (x_N - mean).square().sum()
    divisor = len(x_N) if variance == "biased" else max(len(x_N) - 1, 1)
    white_BT: Tensor = (x_BT - mean.to(x_BT)) * torch.rsqrt(squares / divisor + WHITEN_EPS).to(x_BT)
    if not shift_mean:
        white_BT = white_BT + mean.to(x_BT)
    return torch.where(mask_BT, white_BT, torch.zeros_like(white_BT))


def token_weights(mask_BT: Tensor, aggregation: Aggregation, fixed_length: int | None = None) -> Tensor:
    """Weight of each token's loss, so that the batch's loss is the weighted sum; zero outside the mask; [B, T].

    - `token_mean`: 1 / all tokens (PPO, DAPO): long completions count by their tokens.
    - `sequence_mean`: 1 / (B * own length) (GRPO): each completion counts the same, so a token of a long one less.
    - `sequence_sum`: 1 / B: the gradient of the mean return, without length normalisation.
    - `fixed_length`: 1 / (B * fixed_length) (Dr. GRPO, Liu et al. 2025): `sequence_sum` on the scale of a token mean.

    `mask_BT` is the whole minibatch, so the weights do not depend on micro-batches or processes.
    """
    lengths_B1: Tensor = mask_BT.sum(-1, keepdim=True).float()
    weights_B1: Tensor
    rows, tokens = float(len(mask_BT)), lengths_B1.sum()
    if aggregation == "token_mean":
        weights_B1 = torch.ones_like(lengths_B1) / tokens
    elif aggregation == "sequence_mean":
        weights_B1 = 1 / (rows * lengths_B1.clamp(min=1))
    elif aggregation == "sequence_sum":
        weights_B1 = torch.ones_like(lengths_B1) / rows
    else:
        assert fixed_length is not None, "the config asks for it"
        weights_B1 = torch.ones_like(lengths_B1) / (rows * fixed_length)
    return weights_B1.expand(mask_BT.shape) * mask_BT


class GroupStatistics(NamedTuple):
    """Of the group each row is in, [B] each: rows, mean, sum of squared deviations from it."""

    count_B: Tensor
    mean_B: Tensor
    squares_B: Tensor


def group_statistics(x_B: Tensor, group_B: Tensor) -> GroupStatistics:
    """Statistics of `x_B` within groups, for each row."""
    groups = int(group_B.max()) + 1
    count_G = torch.zeros(groups, dtype=x_B.dtype).index_add(0, group_B, torch.ones_like(x_B))
    mean_B = (torch.zeros_like(count_G).index_add(0, group_B, x_B) / count_G)[group_B]
    squares_G = torch.zeros_like(count_G).index_add(0, group_B, (x_B - mean_B).square())
    return GroupStatistics(count_G[group_B], mean_B, squares_G[group_B])
