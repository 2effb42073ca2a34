"""The step `evaluate`: win rate of one policy over another on the same prompts."""

import json
import logging
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.context import StepContext
from alignkit.errors import UserError
from alignkit.files import atomic_write
from alignkit.loop.guarded import FILE, GuardedSource
from alignkit.loop.measure import mean_words, measure
from alignkit.loop.origin import Origin
from alignkit.loop.prompts import Fitting, fitting_prompts
from alignkit.preflight import Finding
from alignkit.protocols import BatchRelative, Policy, Scores, StepOutput
from alignkit.recipe import ComponentSpec
from alignkit.records import Prompt, plain_text
from alignkit_plugins.step_evaluate.sides import both_origins

if TYPE_CHECKING:
    from alignkit_plugins.step_evaluate.plugin import EvaluateConfig

logger = logging.getLogger("alignkit")


class Evaluate:
    """Satisfies `alignkit.protocols.Step`."""

    def __init__(self, config: "EvaluateConfig") -> None:
        self.config = config

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """Prompts and policies, before it runs."""
        from alignkit_plugins.step_evaluate.examine import EvaluateExamination

        return EvaluateExamination(self.config, context).findings()

    def run(self, context: StepContext) -> StepOutput:
        """Write samples.jsonl; the summary's section `policy` has the win rate and the figures."""
        config = self.config
        origin, base_origin = both_origins(config, context)
        prompts, too_long = self._prompts(origin.policy or base_origin.policy, context)
        judge: Scores = context.build("reward_source", config.judge)
        sources: dict[str, Scores] = {n: context.build("reward_source", spec) for n, spec in config.measure.items()}
        for name, source in (("the judge", judge), *sources.items()):
            if not hasattr(source, "score"):
                raise UserError(f"{name} gives no scores", where=f"step {context.step_id}", hint="use a scoring source")
            if isinstance(source, BatchRelative) and source.batch_relative:
                raise UserError(
                    f"{name} normalises scores over a batch, so those of two policies do not compare",
                    where=f"step {context.step_id}",
                    hint="leave its option normalise out here",
                )
        asked_judge = self._guarded(config.judge, judge, context)
        sources = {n: self._guarded(config.measure[n], source, context) for n, source in sources.items()}
        context.start_progress(2, "model")
        before, base = self._measure(base_origin, None, prompts, sources, context)
        context.log(1, {})
        after, new = self._measure(origin, base_origin.policy, prompts, sources, context)
        context.log(2, {})
        # The judge is asked once per completion: it may be slow, cost money and change its mind.
        scores = [asked_judge.score(r) for r in (base, new)]
        before["judge"], after["judge"] = (float(s.mean()) for s in scores)
        self._write_samples(context, base, new, scores)
        rate = win_rate(scores[1], scores[0], config.resamples, context.seed)
        return StepOutput(
            {"": "samples.jsonl"},
            {
                "policy": {
                    "win_rate": rate,
                    "kl": after.pop("kl", None),
                    "before": before,
                    "after": after,
                    "prompts_too_long": too_long,
                    **self._of_texts((base_origin, before, base), (origin, after, new)),
                }
            },
        )

    def _prompts(self, policy: Policy | None, context: StepContext) -> Fitting:
        config, found = self.config, context.records(self.config.prompts, "prompts")
        if policy is None:
            return Fitting(list(islice(found, config.limit)), 0)
        return fitting_prompts(policy, found, config.max_prompt_length, config.limit)

    def _of_texts(self, *sides: tuple[Origin, dict[str, float], Rollout]) -> dict[str, Any]:
        """What the summary says where token ids are missing on a side: who answered, and what cannot be compared."""
        if not any(rollout.text_only for _, _, rollout in sides):
            return {}
        for _, figures, rollout in sides:
            figures.pop("length", None)
            figures["words"] = mean_words(rollout.texts)
        logger.info("kl and length are left out: the completions of a server have no token ids")
        names = (origin.revision for origin, _, _ in sides)
        return {"drawn_from": dict(zip(("before", "after"), names, strict=True)), "figures_left_out": ["kl", "length"]}

    def _measure(
        self,
        origin: Origin,
        reference: Policy | None,
        prompts: list[Prompt],
        sources: dict[str, Scores],
        context: StepContext,
    ) -> tuple[dict[str, float], Rollout]:
        return measure(
            origin.policy,
            reference,
            origin.sampler,
            prompts,
            self.config.sampling,
            sources,
            context.ops,
            context.seed,
            self.config.micro_batch_tokens,
            origin.who,
        )

    def _guarded(self, spec: ComponentSpec, source: Scores, context: StepContext) -> GuardedSource:
        name = context.manager.get("reward_source", spec.name).described
        return GuardedSource(source, name, self.config.reward_faults, context.checkpoints.rows(FILE))

    def _write_samples(self, context: StepContext, base: Rollout, new: Rollout, scores: list[Tensor]) -> None:
        with atomic_write(context.folder / "samples.jsonl") as file:
            for i in range(min(self.config.samples, len(base))):
                row = {
                    "prompt": plain_text(base.prompts[i].prompt),
                    "before": base.texts[i],
                    "after": new.texts[i],
                    "before_score": float(scores[0][i]),
                    "after_score": float(scores[1][i]),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def win_rate(after_B: Tensor, before_B: Tensor, resamples: int, seed: int) -> dict[str, float]:
    """Share of prompts on which `after` scores higher, ties 1/2, with a 95 % percentile bootstrap over prompts.

    If all prompts are won or all lost, the interval is the exact binomial one (Clopper and Pearson 1934).
    """
    from scipy.stats import binomtest, bootstrap  # half a second, which looking at the step before a run need not wait

    difference = (after_B - before_B).numpy()
    points = np.where(difference > 0, 1.0, np.where(difference < 0, 0.0, 0.5))
    mean = float(points.mean())
    if points.min() == points.max():
        # Resampling equal points gives no width; for all won or all lost the exact binomial interval does.
        exact = None if mean == 0.5 else binomtest(round(points.sum()), len(points)).proportion_ci()
        low, high = (mean, mean) if exact is None else (float(exact.low), float(exact.high))
        return {"mean": mean, "low": low, "high": high, "n": len(points)}
    interval = bootstrap(
        (points,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high), "n": len(points)}
