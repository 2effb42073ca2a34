"""The alignment loop, as in the paper's paragraph: roll out, reward, advantage, optimize; next batch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.context import StepContext
from alignkit.hooks import notify, shape_scores
from alignkit.kl import AdaptiveKL
from alignkit.loop.config import LoopConfig
from alignkit.loop.experience import ExperienceMaker
from alignkit.loop.measure import measure
from alignkit.loop.scores import ScoreNormaliser, check_finite, checked_scores, final_scores
from alignkit.protocols import (
    Advantage,
    Critic,
    Experience,
    Policy,
    ReportsFigures,
    RolloutStage,
    Sampler,
    Scores,
)
from alignkit.records import Prompt
from alignkit.seeds import derived_seed


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
    normaliser: ScoreNormaliser = field(default_factory=lambda: ScoreNormaliser(None))

    def run(self) -> dict[str, Any]:
        """Train for `config.iterations`; returns the first and last measurement and the last KL coefficient."""
        config = self.config
        kl = AdaptiveKL(config.kl.coef, config.kl.target, config.kl.horizon)
        self.normaliser = self._new_normaliser()
        batches = self._prompt_batches()
        self.stage.start(self.policy, self.reference, self.critic, config.iterations, self.context)
        start = self._measure(0)
        end = start
        self.context.start_progress(config.iterations, "iteration")
        for iteration in range(1, config.iterations + 1):
            self._notify("iteration_start", iteration=iteration)
            rollout = self.roll_out(next(batches), iteration)
            scores_B, metrics = self.reward(rollout)
            experience, figures = self.experience(rollout, scores_B, kl.coef)
            metrics |= figures
            metrics |= self.stage.update(experience)
            kl.update(metrics["kl" if config.kl.target_unit == "completion" else "kl_per_token"], len(rollout))
            last = iteration == config.iterations
            if last or (config.eval_every and iteration % config.eval_every == 0):
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

    def reward(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """Score the completions [B], let plugins shape the scores, and say what the source reports of them."""
        scores_B = checked_scores(self.reward_source, rollout)
        figures = dict(self.reward_source.figures()) if isinstance(self.reward_source, ReportsFigures) else {}
        shaped_B = shape_scores(self.context.manager, self.context.run, rollout, scores_B)
        check_finite(shaped_B, rollout, "a plugin's alignkit_shape_scores")
        figures |= {"reward": float(shaped_B.mean()), "reward_std": float(shaped_B.std(unbiased=False))}
        return shaped_B, figures

    def experience(self, rollout: Rollout, scores_B: Tensor, kl_coef: float) -> tuple[Experience, dict[str, float]]:
        """What the optimizer stage learns from, and what to log of it."""
        make = ExperienceMaker(self.policy, self.reference, self.critic, self.advantage, self.config, self.context.ops)
        final_B = final_scores(scores_B, rollout, self.normaliser, self.config)
        experience, metrics = make(rollout, final_B, kl_coef, self._greedy_baseline(rollout))
        return experience, {"kl_coef": kl_coef, **metrics}

    def _greedy_baseline(self, rollout: Rollout) -> Tensor | None:
        """The final score of each prompt's greedy completion, [B], if the estimator asks for it."""
        if not self.advantage.needs.greedy_baseline:
            return None
        groups = rollout.group_B.tolist()
        first = {group: groups.index(group) for group in dict.fromkeys(groups)}
        greedy = self.config.sampling.model_copy(update={"temperature": 0.0, "top_k": 0, "top_p": 1.0})
        prompts = [rollout.prompts[b] for b in first.values()]
        best = self.sampler.rollout(self.policy, prompts, greedy, 0)
        scores_G, _ = self.reward(best)
        # The samples' normaliser as it stands: greedy completions are no part of what it learns from.
        final_G = final_scores(scores_G, best, self.normaliser.frozen(), self.config)
        place = {group: g for g, group in enumerate(first)}
        return final_G[torch.tensor([place[group] for group in groups])]

    def _new_normaliser(self) -> ScoreNormaliser:
        """The normaliser of scores; one that looks at the reference samples and scores its completions here."""
        normaliser = ScoreNormaliser(self.config.normalise_scores)
        if normaliser.config is not None and normaliser.config.mode != "running":
            wanted = normaliser.config.samples
            prompts = [self.prompts[i % len(self.prompts)] for i in range(wanted)]
            seed = derived_seed(self.context.seed, "normalise")
            rollout = self.sampler.rollout(self.reference, prompts, self.config.sampling, seed)
            normaliser.observe(self.reward(rollout)[0])
        return normaliser

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
