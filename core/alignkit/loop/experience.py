"""From scored completions to what an optimizer stage learns from: log-probs, values, token rewards, advantages."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from alignkit.answers import checked_advantages
from alignkit.batches import Rollout
from alignkit.errors import UserError
from alignkit.kl import KLTerm, kl_estimate
from alignkit.loop.config import LoopConfig
from alignkit.loop.logprobs import rollout_kl, rollout_logprobs, rollout_values
from alignkit.loop.measure import text_figures
from alignkit.loop.rewards import token_rewards
from alignkit.masked import whiten
from alignkit.ops import Ops
from alignkit.protocols import Advantage, Critic, Experience, Policy
from alignkit.training.batching import check_positions

logger = logging.getLogger("alignkit")
# bfloat16 differs by a few hundredths; a model that reads padding differs by tenths.
MISMATCH_WARNING = 0.2


@dataclass
class ExperienceMaker:
    """The models and options that turn a rollout and its scores into experience."""

    policy: Policy
    reference: Policy
    critic: Critic | None
    advantage: Advantage
    config: LoopConfig
    ops: Ops
    # What errors call `advantage`.
    estimator: str = "the advantage estimator"

    def __call__(
        self, rollout: Rollout, scores_B: Tensor, kl_coef: float, baseline_B: Tensor | None = None
    ) -> tuple[Experience, dict[str, float]]:
        """Experience of a batch and what to log of it.

        `scores_B` are final (normalised, clipped, penalised); `baseline_B` are those of each prompt's greedy
        completion, for an estimator that needs them.
        """
        config = self.config
        mask_BT = rollout.mask_BT
        if rollout.kept_BTK is None and (config.sampling.top_k > 0 or config.sampling.top_p < 1):
            raise UserError(
                "the sampler does not say which ids top_k and top_p left, so what it drew from is unknown",
                where="sampling",
                hint="sample without top_k and top_p, or use another sampler",
            )
        # Without a critic there is no value behind the stop token to learn, so the score stays on it.
        past_stop = self.critic is not None and config.score_position == "after_stop"
        if past_stop:  # one position more than the sampler made sure of
            check_positions(max(len(row.ids) for row in rollout.rows(past_stop=True)), self.policy.max_positions)
        wide_BT = rollout.value_mask_BT(past_stop)
        logp_BT = rollout_logprobs(self.policy, rollout, self.ops, config.micro_batch_tokens)
        ref_BT = rollout_logprobs(self.reference, rollout, self.ops, config.micro_batch_tokens)
        kl_BT = self._kl(rollout, logp_BT, ref_BT)
        coef = kl_coef if config.kl.in_reward else 0.0
        rewards_BT = token_rewards(scores_B, _widen(kl_BT, wide_BT), wide_BT, coef)
        metrics = self._figures(rollout, logp_BT, ref_BT, kl_BT, rewards_BT)
        if config.whiten_rewards:
            rewards_BT = whiten(rewards_BT, wide_BT, shift_mean=False, variance=config.whiten_variance)
        values_BT = self._values(rollout, past_stop, baseline_B)
        found = self.advantage(rewards_BT, values_BT, wide_BT, rollout.group_B)
        advantages_BT, returns_BT = checked_advantages(found, wide_BT, self.estimator)
        advantages_BT = advantages_BT[:, : mask_BT.shape[1]] * mask_BT
        whitening = self.advantage.needs.whiten
        if whitening is not None:
            advantages_BT = whiten(advantages_BT, mask_BT, variance=whitening.variance)
        experience = Experience(
            rollout=rollout,
            mask_BT=mask_BT,
            logp_BT=logp_BT,
            ref_logp_BT=ref_BT,
            advantages_BT=advantages_BT,
            value_mask_BT=wide_BT,
            values_BT=values_BT if self.critic is not None else None,
            returns_BT=returns_BT,
            kl_term=KLTerm(kl_coef, config.kl.estimator, config.kl.gradient) if config.kl.in_loss else None,
        )
        return experience, metrics

    def _kl(self, rollout: Rollout, logp_BT: Tensor, ref_BT: Tensor) -> Tensor:
        """The configured KL of each token, [B, T]."""
        kl = self.config.kl
        if kl.estimator == "full":
            if rollout.kept_BTK is not None:
                raise UserError(
                    "kl.estimator: full compares whole distributions, and the sampler leaves ids out",
                    where="kl.estimator",
                    hint="use k1, or a sampler that leaves none out",
                )
            return rollout_kl(self.policy, self.reference, rollout, self.ops, self.config.micro_batch_tokens)
        return kl_estimate(logp_BT, ref_BT, kl.estimator) * rollout.mask_BT

    def _values(self, rollout: Rollout, past_stop: bool, baseline_B: Tensor | None) -> Tensor | None:
        """The critic's values, or the greedy baseline at each token, or None."""
        if baseline_B is not None:
            return baseline_B[:, None] * rollout.mask_BT
        if self.critic is None:
            return None
        policy = self.policy
        return rollout_values(
            self.critic, rollout, policy.pad_id, policy.device, self.config.micro_batch_tokens, past_stop
        )

    def _figures(
        self, rollout: Rollout, logp_BT: Tensor, ref_BT: Tensor, kl_BT: Tensor, rewards_BT: Tensor
    ) -> dict[str, float]:
        """`kl` is the log-ratio summed over tokens whatever the penalty is; `objective` the mean return."""
        lengths_B = rollout.mask_BT.sum(-1)
        metrics = {
            "kl": float((logp_BT - ref_BT).sum(-1).mean()),
            "kl_per_token": float((kl_BT.sum(-1) / lengths_B).mean()),
            "objective": float(rewards_BT.sum(-1).mean()),
            **text_figures(rollout),
        }
        if self.config.kl.estimator != "k1":
            metrics[f"kl_{self.config.kl.estimator}"] = float(kl_BT.sum(-1).mean())
        if rollout.sampler_logp_BT is not None:
            difference_BT = (logp_BT - rollout.sampler_logp_BT) * rollout.mask_BT
            metrics["sampler_mismatch"] = float(difference_BT.abs().max())
            if metrics["sampler_mismatch"] > MISMATCH_WARNING:
                logger.warning(
                    "the sampler's log-probs differ from the trainer's by up to %.2f nats: PPO learns from other "
                    "probabilities than were sampled; does the sampler leave ids out and not say which (kept_BTK), or "
                    "does this architecture not support left padding?",
                    metrics["sampler_mismatch"],
                )
        return metrics


def _widen(x_BT: Tensor, like_BT: Tensor) -> Tensor:
    """Columns of zeros behind the last one, up to the width of `like_BT`."""
    return torch.nn.functional.pad(x_BT, (0, like_BT.shape[1] - x_BT.shape[1]))
