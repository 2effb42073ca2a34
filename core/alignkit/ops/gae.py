"""Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equations 11-16)."""

import torch
from torch import Tensor


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  R_t = A_t + V_t.

    The completion of each row is the run of True at the start of `mask_BT`; the value behind its last token is 0
    (the episode ends there). Returns advantages and returns, zero where the mask is False.
    """
    rewards_BT = rewards_BT * mask_BT
    values_BT = values_BT * mask_BT
    next_values_BT = torch.nn.functional.pad(values_BT[:, 1:], (0, 1))
    delta_BT = rewards_BT + gamma * next_values_BT - values_BT
    advantages_BT = torch.zeros_like(delta_BT)
    running_B = torch.zeros_like(delta_BT[:, 0])
    for t in reversed(range(delta_BT.shape[1])):
        running_B = delta_BT[:, t] + gamma * lam * running_B
        advantages_BT[:, t] = running_B
    advantages_BT = advantages_BT * mask_BT
    return advantages_BT, (advantages_BT + values_BT) * mask_BT
