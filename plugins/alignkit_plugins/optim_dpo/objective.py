"""Direct preference optimization: raise the log-ratio of the preferred completion over that of the other one."""

from torch import Tensor

from alignkit.ops import Ops
from alignkit.training.pairs import PairColumns
from alignkit_plugins.optim_dpo.config import DPOConfig
from alignkit_plugins.optim_dpo.losses import hinge_loss, ipo_loss, smoothed


class DPOObjective:
    """Satisfies `alignkit.training.pair_stage.PairObjective`."""

    needs_reference = True

    def __init__(self, config: DPOConfig) -> None:
        self.config = config

    def __call__(
        self, logp_B: Tensor, ref_logp_B: Tensor, length_B: Tensor, pairs: PairColumns, ops: Ops
    ) -> tuple[Tensor, Tensor]:
        """Loss of each pair [P]; implicit reward beta log pi/pi_ref of each text [B].

        Log-ratios are sums over a completion's tokens, as in the papers of DPO and SLiC. For IPO they are means by
        default: its loss asks for a log-ratio difference of 1 / (2 beta), which for sums would be a smaller step per
        token the longer the completions are. TRL does the same and says that the paper's results were made so.
        """
        config = self.config
        ratio_B = logp_B - ref_logp_B
        if config.averaged:
            ratio_B = ratio_B / length_B
        reward_B = config.beta * ratio_B
        p_P, margin_P = smoothed(pairs.p_P, config.label_smoothing), config.margin_coef * pairs.margin_P
        chosen_P, rejected_P = pairs.chosen_P, pairs.rejected_P
        if config.loss == "sigmoid":
            sigmoid_P: Tensor = ops.pairwise_loss(
                reward_B[chosen_P], reward_B[rejected_P], p_P, margin_P, pairs.weight_P
            )
            return sigmoid_P, reward_B
        loss = ipo_loss if config.loss == "ipo" else hinge_loss
        h_P = ratio_B[chosen_P] - ratio_B[rejected_P]
        return loss(h_P, p_P, margin_P, pairs.weight_P, config.beta), reward_B
