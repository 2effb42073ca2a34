"""REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740, equation 8)."""

from torch import Tensor

from alignkit.masked import group_statistics
from alignkit.protocols import Needs


class RLOO:
    """Satisfies `alignkit.protocols.Advantage`; asks for several samples of a prompt and no critic."""

    needs = Needs(samples_per_prompt=2)

    def __call__(
        self, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A = R - mean of the other samples' R, at every token, R a completion's summed rewards; [B, T].

        The baseline does not depend on the completion, so the policy gradient stays unbiased.
        """
        return_B = (rewards_BT * mask_BT).sum(-1)
        stats = group_statistics(return_B, group_B)
        others_B = (stats.mean_B * stats.count_B - return_B) / (stats.count_B - 1).clamp(min=1)
        return (return_B - others_B)[:, None] * mask_BT, return_B[:, None] * mask_BT
