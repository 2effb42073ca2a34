"""The optimal reward baseline of OPO (Hao et al. 2025, "On-Policy RL with Optimal Reward Baseline", arXiv 2505.23585).

The baseline that makes the variance of the policy gradient smallest is E[|g|^2 R] / E[|g|^2], with g the gradient of
log pi(y|x). If the gradients of single tokens are about orthogonal and equally long, |g|^2 grows with the length l of
the completion, and the baseline becomes the mean of the rewards weighted by length.

Taken from the paper: this baseline, no division by the deviation, no critic. Left to the recipe: exact on-policy
training (one update per batch) and the absence of KL and entropy terms.
"""

import torch
from alignkit.protocols import Needs
from torch import Tensor


class OPO:
    """Satisfies `alignkit.protocols.Advantage`; asks for several samples of a prompt and no critic."""

    needs = Needs(samples_per_prompt=2)

    def __call__(
        self, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A = R - b at every token, R a completion's summed rewards; [B, T].

        b contains R itself, so the gradient is biased towards zero, by a share of the order of 1 / K.
        """
        return_B = (rewards_BT * mask_BT).sum(-1)
        baseline_B = length_weighted_mean(return_B, mask_BT.sum(-1), group_B)
        return (return_B - baseline_B)[:, None] * mask_BT, return_B[:, None] * mask_BT


def length_weighted_mean(return_B: Tensor, length_B: Tensor, group_B: Tensor) -> Tensor:
    """b = sum_i l_i R_i / sum_i l_i over the completions of each one's prompt, [B]. Lengths in tokens."""
    weight_B = length_B.to(return_B.dtype)
    zero_G = torch.zeros(int(group_B.max()) + 1, dtype=return_B.dtype, device=return_B.device)
    weighted_G = zero_G.index_add(0, group_B, weight_B * return_B)
    tokens_G = zero_G.index_add(0, group_B, weight_B)
    return (weighted_G / tokens_G.clamp(min=1))[group_B]
