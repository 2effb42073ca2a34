"""Group relative advantages (Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300, section 4.1.2)."""

import torch
from torch import Tensor

from alignkit.masked import group_statistics
from alignkit.protocols import Needs

STD_EPS = 1e-4


class GRPO:
    """Satisfies `alignkit.protocols.Advantage`; asks for several samples of a prompt and no critic."""

    needs = Needs(samples_per_prompt=2)

    def __init__(self, normalise_std: bool) -> None:
        self.normalise_std = normalise_std

    def __call__(
        self, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A = (R - mean) / (std + 1e-4) at every token, R a completion's summed rewards, std divided by K - 1; [B, T].

        Without `normalise_std` A = R - mean, which is (K - 1) / K times the leave-one-out advantage.
        """
        return_B = (rewards_BT * mask_BT).sum(-1)
        stats = group_statistics(return_B, group_B)
        advantage_B = return_B - stats.mean_B
        if self.normalise_std:
            advantage_B = advantage_B / (torch.sqrt(stats.squares_B / (stats.count_B - 1).clamp(min=1)) + STD_EPS)
        return advantage_B[:, None] * mask_BT, return_B[:, None] * mask_BT
