"""The alignment loop, as in the paper's paragraph: roll out, reward, advantage, optimize; next batch."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alignkit.answers import checked_metrics
from alignkit.batches import Rollout
from alignkit.checkpoints import prefixed, under
from alignkit.context import StepContext
from alignkit.errors import Fault, UserError
from alignkit.hooks import notify, shape_scores
from alignkit.kl import AdaptiveKL
from alignkit.loop.config import LoopConfig
from alignkit.loop.experience import ExperienceMaker
from alignkit.loop.guarded import FILE, GuardedSource
from alignkit.loop.left_out import LeftOut, without_failed
from alignkit.loop.measure import measure
from alignkit.loop.prompts import PromptBatches
from alignkit.loop.rollouts import checked_rollout
from alignkit.loop.scores import ScoreNormaliser, final_scores
from alignkit.loop.state import Progress, ScoredBatch, Weights
from alignkit.modeling.sharding import save_model
from alignkit.processes import on_first, several
from alignkit.protocols import (
    Advantage,
    Critic,
    Experience,
    PassesOver,
    Policy,
    Resumable,
    RolloutStage,
    Sampler,
    Scores,
    State,
    shares_work,
)
from alignkit.records import Prompt, Sampling
from alignkit.seeds import derived_seed
from alignkit.training.keeping import Keeper

logger = logging.getLogger("alignkit")


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
    # What errors call the reward source ("reward"), the monitors, the sampler, the estimator and the stage.
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.config
        self.normaliser = ScoreNormaliser(config.normalise_scores)
        self.kl = AdaptiveKL(config.kl.coef, config.kl.target, config.kl.horizon)
        self.progress = Progress()
        self.batches = self._prompt_batches()
        sources = {"reward": self.reward_source, **self.monitors}
        self.asked = {name: self._guarded(name, source) for name, source in sources.items()}
        self.left_out = LeftOut(self.asked["reward"].name)
        self.keeper = Keeper(config.keep_best, config.keep_every, partial(save_model, self.policy), self.context)

    def run(self) -> dict[str, Any]:
        """Train for `config.iterations`; returns the first and last measurement and the last KL coefficient.

        A run that was interrupted goes on from the step's newest checkpoint: with the models as they were built at
        first, whatever they have learned since then is put into them here.
        """
        total, progress = self.config.iterations, self.progress
        self.stage.start(self.policy, self.reference, self.critic, total, self.context)
        with self.context.checkpoints.loop() as checkpoints:
            state = checkpoints.restored()
            if state is not None:
                self.restore(state)
            else:
                self._begin()
                checkpoints.safe_point(0, self.state)
            del state  # as large as weights and moments together
            self.context.start_progress(total, "iteration")
            while progress.iteration < total:
                iteration = progress.iteration + 1
                self._notify("iteration_start", iteration=iteration)
                if progress.batch is None:
                    progress.batch = self._scored_batch(iteration)
                    if progress.batch is not None:
                        # What was sampled and judged is dear, and a judge may answer differently when asked again.
                        checkpoints.safe_point(progress.iteration, self.state)
                self._learn(progress.batch, iteration)
                progress.iteration, progress.batch = iteration, None
                checkpoints.safe_point(iteration, self.state)
        return {"start": progress.start, "end": progress.end, "kl_coef": self.kl.coef}

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, flat."""
        return {k: v for name, part in self._parts().items() for k, v in prefixed(name, part.state()).items()}

    def restore(self, state: State) -> None:
        """Take over a `state()`, after the stage was started."""
        for name, part in self._parts().items():
            part.restore(under(name, state))

    def _parts(self) -> dict[str, Resumable]:
        """What has a state. Weights come first: what is behind them may look at them."""
        found: dict[str, Any] = {"policy": Weights(self.policy.module)}
        if self.critic is not None:
            found["critic"] = Weights(self.critic.module)
        found |= {"progress": self.progress, "kl": self.kl, "normaliser": self.normaliser, "prompts": self.batches}
        found |= {"keeper": self.keeper, "left_out": self.left_out, "stage": self.stage}
        others = {"reward_source": self.reward_source, "advantage": self.advantage, "sampler": self.sampler}
        others |= {f"monitor.{n}": monitor for n, monitor in enumerate(self.monitors.values())}
        return found | {name: part for name, part in others.items() if isinstance(part, Resumable)}

    def _begin(self) -> None:
        """What comes before the first iteration: statistics of the reference's scores, and a measurement."""
        if self.config.keep_best is not None and not self.eval_prompts:
            raise UserError(
                "keep_best goes by measurements, and there are no eval_prompts",
                where=f"step {self.context.step_id}",
                hint="name eval_prompts, or hold prompts back in the data step",
            )
        self._observe_reference()
        self.progress.start = self.progress.end = self._measure()
        if self.progress.start:
            measured = _as_measured(self.progress.start)
            self.context.log(0, measured)
            self.keeper.at(0, measured, self.config.iterations)

    def _scored_batch(self, iteration: int) -> ScoredBatch | None:
        """Completions of the next prompts with what they earn; None if every prompt had to be left out."""
        rollout = self.roll_out(next(self.batches), iteration)
        asked = self.asked["reward"]
        asked.place = {"iteration": iteration}
        scored = asked.ask(rollout)
        kept = without_failed(rollout, scored)
        self.left_out.count(len(rollout), len(kept[0]) if kept is not None else 0)
        if kept is None:
            return None
        scores_B, figures = self._shaped(*kept, scored.figures)
        if asked.skips:
            figures["left_out"] = float(len(rollout) - len(kept[0]))
        return self._earned(kept[0], scores_B, figures)

    def _learn(self, batch: ScoredBatch | None, iteration: int) -> None:
        """The second half of an iteration: advantages, update, measurement, one row of metrics."""
        config = self.config
        metrics = self._passed_over() if batch is None else self._updated(batch)
        measured: dict[str, float] = {}
        if iteration == config.iterations or (config.eval_every and iteration % config.eval_every == 0):
            self.progress.end = self._measure()
            measured = _as_measured(self.progress.end)
        self.context.log(iteration, {**metrics, **measured})
        self._notify("iteration_end", iteration=iteration, metrics={**metrics, **measured})
        self.keeper.at(iteration, measured, config.iterations)

    def _updated(self, batch: ScoredBatch) -> dict[str, float]:
        """Metrics of an update."""
        experience, figures = self._experience(batch, self.kl.coef)
        updated = checked_metrics(self.stage.update(experience), self._name("optimizer_stage"))
        metrics = {**batch.figures, **figures, **updated}
        self.left_out.updates += int(metrics.get("skipped", 0))
        unit = "kl" if self.config.kl.target_unit == "completion" else "kl_per_token"
        if math.isfinite(metrics[unit]):
            self.kl.update(metrics[unit], len(batch.rollout))
        else:  # the stage has left the rows out that it comes from; the coefficient must not become NaN for good
            logger.warning("%s is %s in this batch: its coefficient stays as it is", unit, metrics[unit])
        return metrics

    def _passed_over(self) -> dict[str, float]:
        """Metrics of an iteration without an update. Schedules that count planned updates go on."""
        if isinstance(self.stage, PassesOver):
            self.stage.pass_over()
        return {"left_out": float(math.prod(self._batch_size())), "kl_coef": self.kl.coef}

    def roll_out(self, prompts: Sequence[Prompt], iteration: int) -> Rollout:
        """Sample completions for a batch of prompts."""
        seed = derived_seed(self.context.seed, "rollout", iteration)
        rollout = self._sample(self.policy, prompts, self.config.sampling, seed)
        self._notify("rollouts", rollout=rollout)
        return rollout

    def reward(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """Score the completions [B], let plugins shape the scores, and say what the source reports of them."""
        scored = self.asked["reward"].ask_for_all(rollout)
        return self._shaped(rollout, scored.scores_B, scored.figures)

    def _shaped(
        self, rollout: Rollout, scores_B: Tensor, reported: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, float]]:
        figures = dict(reported)
        if several():
            shaped_B = torch.tensor(on_first(lambda: self._shape(rollout, scores_B).tolist()), dtype=scores_B.dtype)
        else:
            shaped_B = self._shape(rollout, scores_B)
        figures |= {"reward": float(shaped_B.mean()), "reward_std": float(shaped_B.std(unbiased=False))}
        return shaped_B, figures

    def _shape(self, rollout: Rollout, scores_B: Tensor) -> Tensor:
        return shape_scores(self.context.manager, self.context.run, rollout, scores_B)

    def experience(self, rollout: Rollout, scores_B: Tensor, kl_coef: float) -> tuple[Experience, dict[str, float]]:
        """What the optimizer stage learns from, and what to log of it."""
        return self._experience(self._earned(rollout, scores_B, {}), kl_coef)

    def _earned(self, rollout: Rollout, scores_B: Tensor, figures: dict[str, float]) -> ScoredBatch:
        """The batch with final scores, in which the source is asked for the last time."""
        final_B = final_scores(scores_B, rollout, self.normaliser, self.config)
        return ScoredBatch(rollout, final_B, self._greedy_baseline(rollout), figures)

    def _experience(self, batch: ScoredBatch, kl_coef: float) -> tuple[Experience, dict[str, float]]:
        others = self.advantage, self.config, self.context.ops, self._name("advantage")
        make = ExperienceMaker(self.policy, self.reference, self.critic, *others)
        experience, metrics = make(batch.rollout, batch.scores_B, kl_coef, batch.baseline_B)
        return experience, {"kl_coef": kl_coef, **metrics}

    def _greedy_baseline(self, rollout: Rollout) -> Tensor | None:
        """The final score of each prompt's greedy completion, [B], if the estimator asks for it."""
        if not self.advantage.needs.greedy_baseline:
            return None
        groups = rollout.group_B.tolist()
        first = {group: groups.index(group) for group in dict.fromkeys(groups)}
        greedy = self.config.sampling.model_copy(update={"temperature": 0.0, "top_k": 0, "top_p": 1.0})
        prompts = [rollout.prompts[b] for b in first.values()]
        best = self._sample(self.policy, prompts, greedy, 0)
        scores_G, _ = self.reward(best)
        # The samples' normaliser as it stands: greedy completions are no part of what it learns from.
        final_G = final_scores(scores_G, best, self.normaliser.frozen(), self.config)
        place = {group: g for g, group in enumerate(first)}
        return final_G[torch.tensor([place[group] for group in groups])]

    def _observe_reference(self) -> None:
        """Show a normaliser that looks at the reference the scores of its completions."""
        normalise = self.config.normalise_scores
        if normalise is not None and normalise.mode != "running":
            prompts = [self.prompts[i % len(self.prompts)] for i in range(normalise.samples)]
            seed = derived_seed(self.context.seed, "normalise")
            rollout = self._sample(self.reference, prompts, self.config.sampling, seed)
            scored = self.asked["reward"].ask(rollout)
            kept = without_failed(rollout, scored)
            if kept is None:
                raise Fault(f"{self.left_out.name} could not score the reference", where="normalise_scores")
            self.normaliser.observe(self._shaped(*kept, scored.figures)[0])

    def _prompt_batches(self) -> PromptBatches:
        """Batches of prompts, each as often as options and estimator ask for."""
        distinct, repeat = self._batch_size()
        return PromptBatches(self.prompts, distinct, repeat, derived_seed(self.context.seed, "prompts"))

    def _batch_size(self) -> tuple[int, int]:
        """Different prompts in a batch, and completions of each."""
        repeat = max(self.config.samples_per_prompt, self.advantage.needs.samples_per_prompt)
        return math.ceil(self.config.batch_size / repeat), repeat

    def _guarded(self, name: str, source: Scores) -> GuardedSource:
        faults, rows = self.config.reward_faults, self.context.checkpoints.rows(FILE)
        shared = faults.timeout is None and shares_work(source, self.context)
        return GuardedSource(source, self._name(name), faults, rows, shared=shared)

    def _name(self, part: str) -> str:
        """What errors call a part."""
        known = {"reward": "the reward source", "sampler": "the sampler"}
        known |= {"advantage": "the advantage estimator", "optimizer_stage": "the optimizer stage"}
        return self.names.get(part) or known.get(part) or f"monitor {part!r}"

    def _sample(self, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        return checked_rollout(self.sampler, policy, prompts, sampling, seed, self._name("sampler"))

    def _measure(self) -> dict[str, float]:
        if not self.eval_prompts:
            return {}
        for asked in self.asked.values():
            asked.place = {"measurement": True}
        figures, _ = measure(
            self.policy,
            self.reference,
            self.sampler,
            self.eval_prompts,
            self.config.sampling,
            self.asked,
            self.context.ops,
            self.config.eval_seed,
            self.config.micro_batch_tokens,
            self._name("sampler"),
        )
        return figures

    def _notify(self, hook: str, **arguments: Any) -> None:
        name = f"alignkit_{hook}"
        notify(self.context.manager, name, run=self.context.run, step_id=self.context.step_id, **arguments)


def _as_measured(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures of a measurement under the names that they are logged by."""
    return {f"eval_{name}": value for name, value in figures.items()}
