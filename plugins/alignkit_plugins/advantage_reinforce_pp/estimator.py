"""REINFORCE++ (Hu 2025, arXiv 2501.03262): token-level rewards to come, whitened over the batch, no critic."""

import torch
from torch import Tensor

from alignkit.masked import group_statistics
from alignkit.protocols import Needs, Whitening


class ReinforcePP:
    """Satisfies `alignkit.protocols.Advantage`; one sample of a prompt is enough without `baseline`."""

    def __init__(self, gamma: float, baseline: bool, whiten: Whitening | None) -> None:
        self.needs = Needs(samples_per_prompt=2 if baseline else 1, whiten=whiten)
        self.gamma = gamma
        self.baseline = baseline

    def __call__(
        self, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A_t = sum over s >= t of gamma^(s - t) r_s, less the group's mean return with `baseline`; [B, T].

        The loop whitens it over the batch (`Needs.whiten`).
        """
        rewards_BT = rewards_BT * mask_BT
        to_come_BT = torch.zeros_like(rewards_BT)
        running_B = torch.zeros_like(rewards_BT[:, 0])
        for t in reversed(range(rewards_BT.shape[1])):
            running_B = rewards_BT[:, t] + self.gamma * running_B
            to_come_BT[:, t] = running_B
        to_come_BT = to_come_BT * mask_BT
        if not self.baseline:
            return to_come_BT, to_come_BT
        mean_B = group_statistics(rewards_BT.sum(-1), group_B).mean_B
        return (to_come_BT - mean_B[:, None]) * mask_BT, to_come_BT
