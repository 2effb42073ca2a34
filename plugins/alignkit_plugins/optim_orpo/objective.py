"""Odds ratio preference optimization: imitate the preferred completion, and make it likelier than the other one."""

from torch import Tensor

from alignkit.ops import Ops
from alignkit.training.pairs import PairColumns
from alignkit_plugins.optim_orpo.config import ORPOConfig
from alignkit_plugins.optim_orpo.losses import log_odds, sft_loss


class ORPOObjective:
    """Satisfies `alignkit.training.pair_stage.PairObjective`."""

    needs_reference = False

    def __init__(self, config: ORPOConfig) -> None:
        self.config = config

    def __call__(
        self, logp_B: Tensor, ref_logp_B: Tensor, length_B: Tensor, pairs: PairColumns, ops: Ops
    ) -> tuple[Tensor, Tensor]:
        """L_SFT - lambda log sigmoid(log odds(chosen) - log odds(rejected)) of each pair (equations 6 and 7), [P].

        Both terms use means over the completion's tokens, prompt left out. The implicit reward is the log odds, [B]. A
        margin is asked of the log odds ratio.
        """
        mean_logp_B = logp_B / length_B
        odds_B = log_odds(mean_logp_B)
        chosen_P, rejected_P, p_P, margin_P, weight_P = pairs
        imitation_P = sft_loss(mean_logp_B, chosen_P, rejected_P, p_P, weight_P)
        ratio_P: Tensor = ops.pairwise_loss(odds_B[chosen_P], odds_B[rejected_P], p_P, margin_P, weight_P)
        return imitation_P + self.config.odds_coef * ratio_P, odds_B
