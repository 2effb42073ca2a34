"""The step `align`: builds the four slots and runs the core's loop."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.context import BuildContext, StepContext
from alignkit.errors import UserError
from alignkit.loop.loop import AlignmentLoop
from alignkit.loop.origin import sampler_of_ids
from alignkit.loop.prompts import fitting_prompts
from alignkit.modeling.sharding import save_model
from alignkit.preflight import Finding
from alignkit.protocols import Advantage, Critic, Policy, RolloutStage, StepOutput, shares_work
from alignkit.records import Prompt

logger = logging.getLogger("alignkit")

if TYPE_CHECKING:
    from alignkit_plugins.step_align.config import AlignConfig


class Align:
    """Satisfies `alignkit.protocols.Step`."""

    def __init__(self, config: "AlignConfig") -> None:
        self.config = config

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """Options, prompts, models, rewards and room, before it runs."""
        from alignkit_plugins.step_align.examine import AlignExamination

        return AlignExamination(self.config, context).findings()

    def shares_work(self, context: BuildContext) -> bool:
        """Where the stage does."""
        return shares_work(context.build("optimizer_stage", self.config.optimizer_stage), context)

    def run(self, context: StepContext) -> StepOutput:
        """Run the loop, save the policy (output "" and `policy`) and the critic (`critic`), beside models it kept."""
        loop, left_out = self.build_loop(context)
        figures = loop.run()
        save_model(loop.policy, context.folder / "model")
        outputs = {"": "model", "policy": "model"}
        if loop.critic is not None:
            save_model(loop.critic, context.folder / "critic", loop.policy)  # it may be a head on the policy
            outputs["critic"] = "critic"
        if self.config.reward_faults.then == "skip":
            left_out |= {
                "completions_left_out": loop.left_out.completions,
                "batches_left_out": loop.left_out.batches,
            }
        if loop.left_out.updates:
            left_out["updates_left_out"] = loop.left_out.updates
        summary = {**self._summary(figures), **loop.keeper.summary(), "prompts": len(loop.prompts), **left_out}
        return StepOutput(outputs | context.kept, {self.config.optimizer_stage.name: summary})

    def build_loop(self, context: StepContext) -> tuple[AlignmentLoop, dict[str, int]]:
        """The loop with all its parts, and how many prompts were too long for it."""
        config = self.config
        where = f"step {context.step_id}"
        reward_source = context.build("reward_source", config.reward_source)
        if not hasattr(reward_source, "score"):
            raise UserError(
                f"reward source {config.reward_source.name!r} gives judgements, not scores",
                where=where,
                hint="collect its judgements, train a reward_model on them and use that here",
            )
        stage: RolloutStage = context.build("optimizer_stage", config.optimizer_stage)
        if not hasattr(stage, "update"):
            raise UserError(
                f"optimizer stage {config.optimizer_stage.name!r} learns from records",
                where=where,
                hint="use step: train",
            )
        sampler = sampler_of_ids(config.sampler, context)
        policy = context.policy(config.policy)
        reference = policy.reference() if config.reference is None else context.policy(config.reference).reference()
        if reference.tokenizer_id != policy.tokenizer_id:
            raise UserError("the reference has another tokenizer than the policy", where=where, hint="set reference")
        advantage: Advantage = context.build("advantage", config.advantage)
        self._check_fit(stage, advantage, where)
        longest = config.max_prompt_length
        prompts = fitting_prompts(policy, context.records(config.prompts, "prompts"), longest)
        eval_prompts = fitting_prompts(policy, self._eval_prompts(context), longest, config.eval_limit)
        loop = AlignmentLoop(
            policy=policy,
            reference=reference,
            critic=self._critic(policy, advantage, context),
            reward_source=reward_source,
            advantage=advantage,
            stage=stage,
            sampler=sampler,
            prompts=prompts.prompts,
            eval_prompts=eval_prompts.prompts,
            monitors={name: context.build("reward_source", spec) for name, spec in config.monitor.items()},
            config=config,
            context=context,
            names=self._names(context),
        )
        return loop, {"prompts_too_long": prompts.too_long, "eval_prompts_too_long": eval_prompts.too_long}

    def _check_fit(self, stage: RolloutStage, advantage: Advantage, where: str) -> None:
        """Raise UserError for parts that do not go together; warn of options without effect."""
        config = self.config
        if config.kl.in_loss and not stage.adds_kl:
            raise UserError(
                f"optimizer stage {config.optimizer_stage.name!r} does not add a KL term to its loss",
                where=f"{where}: kl.placement",
                hint="use placement: reward, or another stage",
            )
        if not advantage.needs.critic:
            given = config.model_fields_set & {"critic", "critic_init", "critic_head", "score_position"}
            if given and config.compat is None:
                names = ", ".join(sorted(given))
                logger.warning("%s: advantage %s has no critic; %s has no effect", where, config.advantage.name, names)
        if config.kl.estimator == "full" and (config.sampling.top_k or config.sampling.top_p < 1):
            raise UserError(
                "kl.estimator: full compares whole distributions, and top_k or top_p samples from a part of one",
                where=f"{where}: kl.estimator",
                hint="use k1, or sample without top_k and top_p",
            )

    def _names(self, context: StepContext) -> dict[str, str]:
        """Owner and name of the parts that may be strangers', for errors."""
        config, get = self.config, context.manager.get
        names = {n: get("reward_source", spec.name).described for n, spec in config.monitor.items()}
        names["reward"] = get("reward_source", config.reward_source.name).described
        names["sampler"] = get("sampler", config.sampler.name).described
        names["advantage"] = get("advantage", config.advantage.name).described
        names["optimizer_stage"] = get("optimizer_stage", config.optimizer_stage.name).described
        return names

    def _critic(self, policy: Policy, advantage: Advantage, context: StepContext) -> Critic | None:
        config = self.config
        if not advantage.needs.critic:
            return None
        init = None if config.critic_init is None else context.resolve(config.critic_init)
        return policy.critic(init, config.critic_head == "reward_model", shared=config.critic == "shared")

    def _eval_prompts(self, context: StepContext) -> Sequence[Prompt]:
        if self.config.eval_prompts is not None:
            return context.records(self.config.eval_prompts, "prompts")
        return context.heldout(self.config.prompts, "prompts") or []

    def _summary(self, figures: dict[str, Any]) -> dict[str, Any]:
        """`reward_start`, `reward_end` and the like for every measured figure; `kl` is that of the end."""
        summary: dict[str, Any] = {"iterations": self.config.iterations, "kl_coef": figures["kl_coef"]}
        for when in ("start", "end"):
            summary |= {f"{name}_{when}": value for name, value in figures[when].items() if name != "kl"}
        if "kl" in figures["end"]:
            summary["kl"] = figures["end"]["kl"]
        return summary
