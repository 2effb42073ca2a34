"""The alignment loop, as in the paper's paragraph: roll out, reward, advantage, optimize; next batch."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.context import StepContext
from alignkit.hooks import notify, shape_scores
from alignkit.loop.config import LoopConfig
from alignkit.loop.logprobs import rollout_logprobs, rollout_values
from alignkit.loop.measure import measure, text_figures
from alignkit.loop.rewards import AdaptiveKL, check_finite, checked_scores, penalise_missing_stop, token_rewards, whiten
from alignkit.protocols import Advantage, Critic, Experience, Policy, RolloutStage, Sampler, Scores
from alignkit.records import Prompt
from alignkit.seeds import derived_seed

logger = logging.getLogger("alignkit")
# bfloat16 differs by a few hundredths; a model that reads padding differs by tenths.
MISMATCH_WARNING = 0.2


@dataclass
class AlignmentLoop:
    """The four slots (policy, reward source, advantage, optimizer stage) and what they share."""

    policy: Policy
    reference: Policy
    critic: Critic | None
    reward_source: Scores
    advantage: Advantage
    stage: RolloutStage
    sampler: Sampler
    prompts: Sequence[Prompt]
    eval_prompts: Sequence[Prompt]
    monitors: Mapping[str, Scores]
    config: LoopConfig
    context: StepContext

    def run(self) -> dict[str, Any]:
        """Train for `config.iterations`; returns the first and last measurement and the last KL coefficient."""
        kl = AdaptiveKL.from_config(self.config.kl)
        batches = self._prompt_batches()
        self.stage.start(self.policy, self.critic, self.config.iterations, self.context)
        start = self._measure(0)
        end = start
        self.context.start_progress(self.config.iterations, "iteration")
        for iteration in range(1, self.config.iterations + 1):
            self._notify("iteration_start", iteration=iteration)
            rollout = self.roll_out(next(batches), iteration)
            scores_B = self.reward(rollout)
            experience, metrics = self.experience(rollout, scores_B, kl.coef)
            metrics |= self.stage.update(experience)
            kl.update(metrics["kl"], len(rollout))
            last = iteration == self.config.iterations
            if last or (self.config.eval_every and iteration % self.config.eval_every == 0):
                end = self._measure(iteration)
                metrics |= {f"eval_{name}": value for name, value in end.items()}
            self.context.log(iteration, metrics)
            self._notify("iteration_end", iteration=iteration, metrics=metrics)
        return {"start": start, "end": end, "kl_coef": kl.coef}

    def roll_out(self, prompts: Sequence[Prompt], iteration: int) -> Rollout:
        """Sample completions for a batch of prompts."""
        seed = derived_seed(self.context.seed, "rollout", iteration)
        rollout = self.sampler.rollout(self.policy, prompts, self.config.sampling, seed)
        self._notify("rollouts", rollout=rollout)
        return rollout

    def reward(self, rollout: Rollout) -> Tensor:
        """Score the completions [B] and let plugins shape the scores."""
        scores_B = checked_scores(self.reward_source, rollout)
        shaped_B = shape_scores(self.context.manager, self.context.run, rollout, scores_B)
        check_finite(shaped_B, rollout, "a plugin's alignkit_shape_scores")
        return shaped_B

    def experience(self, rollout: Rollout, scores_B: Tensor, kl_coef: float) -> tuple[Experience, dict[str, float]]:
        """Log-probs, values, token rewards, advantages and returns of a batch, and what to log of them."""
        config, mask_BT = self.config, rollout.mask_BT
        logp_BT = rollout_logprobs(self.policy, rollout, self.context.ops, config.micro_batch_tokens)
        ref_BT = rollout_logprobs(self.reference, rollout, self.context.ops, config.micro_batch_tokens)
        values_BT = None
        if self.critic is not None:
            values_BT = rollout_values(
                self.critic, rollout, self.policy.pad_id, self.policy.device, config.micro_batch_tokens
            )
        clipped_B = scores_B if config.clip_score is None else scores_B.clamp(-config.clip_score, config.clip_score)
        stopped_B = torch.tensor([f == "stop" for f in rollout.finish])
        penalised_B = penalise_missing_stop(clipped_B, stopped_B, config.missing_stop)
        rewards_BT = token_rewards(penalised_B, logp_BT, ref_BT, mask_BT, kl_coef)
        objective = float(rewards_BT.sum(-1).mean())  # before whitening, which changes its unit
        if config.whiten_rewards:
            rewards_BT = whiten(rewards_BT, mask_BT, shift_mean=False)
        advantages_BT, returns_BT = self.advantage(rewards_BT, values_BT, mask_BT, rollout.group_B)
        metrics = {
            "reward": float(scores_B.mean()),
            "reward_std": float(scores_B.std(unbiased=False)),
            "kl": float((logp_BT - ref_BT).sum(-1).mean()),
            "kl_coef": kl_coef,
            "objective": objective,
            **text_figures(rollout),
        }
        if rollout.sampler_logp_BT is not None and config.sampling.top_k == 0 and config.sampling.top_p == 1.0:
            difference_BT = (logp_BT - rollout.sampler_logp_BT) * mask_BT
            metrics["sampler_mismatch"] = float(difference_BT.abs().max())
            if metrics["sampler_mismatch"] > MISMATCH_WARNING:
                logger.warning(
                    "the sampler's log-probs differ from the trainer's by up to %.2f nats: PPO learns from other "
                    "probabilities than were sampled; does this architecture support left padding?",
                    metrics["sampler_mismatch"],
                )
        return Experience(rollout, mask_BT, logp_BT, ref_BT, values_BT, advantages_BT, returns_BT), metrics

    def _prompt_batches(self) -> Iterator[list[Prompt]]:
        """Endless batches: a fresh permutation of the prompts each epoch, each prompt `samples_per_prompt` times."""
        repeat = max(self.config.samples_per_prompt, self.advantage.needs.samples_per_prompt)
        distinct = math.ceil(self.config.batch_size / repeat)
        generator = torch.Generator().manual_seed(derived_seed(self.context.seed, "prompts"))
        queue: list[int] = []
        while True:
            while len(queue) < distinct:
                queue += torch.randperm(len(self.prompts), generator=generator).tolist()
            chosen, queue = queue[:distinct], queue[distinct:]
            yield [self.prompts[i] for i in chosen for _ in range(repeat)]

    def _measure(self, iteration: int) -> dict[str, float]:
        if not self.eval_prompts:
            return {}
        figures, _ = measure(
            self.policy,
            self.reference,
            self.sampler,
            self.eval_prompts,
            self.config.sampling,
            {"reward": self.reward_source, **self.monitors},
            self.context.ops,
            self.config.eval_seed,
            self.config.micro_batch_tokens,
        )
        if iteration == 0:
            self.context.log(0, {f"eval_{name}": value for name, value in figures.items()})
        return figures

    def _notify(self, hook: str, **arguments: Any) -> None:
        name = f"alignkit_{hook}"
        notify(self.context.manager, name, run=self.context.run, step_id=self.context.step_id, **arguments)
