"""ReMax (Li et al. 2023, arXiv 2310.10505): the greedy completion's score as baseline."""

from torch import Tensor

from alignkit.protocols import Needs


class ReMax:
    """Satisfies `alignkit.protocols.Advantage`; asks for a greedy completion of each prompt and no critic."""

    needs = Needs(greedy_baseline=True)

    def __call__(
        self, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A = R - score of the greedy completion, at every token, R a completion's summed rewards; [B, T]."""
        assert values_BT is not None, "the loop samples a greedy completion for an estimator that needs one"
        return_BT = (rewards_BT * mask_BT).sum(-1, keepdim=True) * mask_BT
        return return_BT - values_BT * mask_BT, return_BT
