"""From scores to token rewards: KL penalty, missing stop token, whitening, adaptive coefficient. Pure functions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import Fault
from alignkit.loop.config import KLConfig, MissingStopConfig
from alignkit.protocols import Scores

WHITEN_EPS = 1e-8


def checked_scores(source: Scores, rollout: Rollout) -> Tensor:
    """Score the completions [B]. Raises Fault for scores of another shape or that are not finite."""
    scores_B = source.score(rollout).float().cpu()
    if scores_B.shape != (len(rollout),):
        raise Fault(
            f"the reward source returned scores of shape {tuple(scores_B.shape)} for {len(rollout)} completions"
        )
    check_finite(scores_B, rollout, "the reward source")
    return scores_B


def check_finite(scores_B: Tensor, rollout: Rollout, who: str) -> None:
    """Raise Fault, naming the completion, if a score is not finite."""
    bad = (~torch.isfinite(scores_B)).nonzero().flatten().tolist()
    if bad:
        raise Fault(
            f"{who} scored {len(bad)} of {len(rollout)} completions as not finite, first "
            f"{float(scores_B[bad[0]])} for {rollout.texts[bad[0]][:200]!r}"
        )


def penalise_missing_stop(scores_B: Tensor, stopped_B: Tensor, config: MissingStopConfig | None) -> Tensor:
    """Scores [B] in which completions without a stop token are replaced or lowered."""
    if config is None:
        return scores_B
    other_B = torch.full_like(scores_B, config.value) if config.mode == "replace" else scores_B - config.value
    return torch.where(stopped_B, scores_B, other_B)


def token_rewards(scores_B: Tensor, logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """r_t = -beta (log pi - log pi_ref)_t, plus the score at the last token (Ziegler et al. 2019, equation 2); [B, T].

    The last token is the last True of `mask_BT`: the stop token, or the token at the length limit.
    """
    rewards_BT = -kl_coef * (logp_BT - ref_logp_BT) * mask_BT
    last_B1 = mask_BT.long().sum(-1, keepdim=True) - 1
    return rewards_BT.scatter_add(-1, last_B1, scores_B[:, None])


def whiten(x_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over the tokens of the mask; the mean is added back unless `shift_mean`.

    The variance is biased (divided by n), as in OpenAI's lm-human-preferences.
    """
    x_N = x_BT[mask_BT]
    mean = x_N.mean()
    white_BT = (x_BT - mean) * torch.rsqrt(x_N.var(unbiased=False) + WHITEN_EPS)
    return (white_BT if shift_mean else white_BT + mean) * mask_BT


@dataclass
class AdaptiveKL:
    """beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon) (Ziegler et al. 2019, section 2.2).

    KL is the sum over the tokens of a completion, averaged over the batch of n completions.
    """

    config: KLConfig
    coef: float

    @classmethod
    def from_config(cls, config: KLConfig) -> "AdaptiveKL":
        """Starts at the configured coefficient; stays there without a target."""
        return cls(config, config.coef)

    def update(self, kl: float, episodes: int) -> None:
        """Take one batch's KL into account."""
        if self.config.target is None:
            return
        error = min(max(kl / self.config.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.config.horizon
