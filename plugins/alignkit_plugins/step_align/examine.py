"""What can be seen of the alignment loop before it runs: its options, prompts, models, and the room for them."""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from alignkit.context import StepContext
from alignkit.errors import UserError
from alignkit.loop.origin import sampler_of_ids
from alignkit.ops import EAGER
from alignkit.preflight import Finding, Sample, each
from alignkit.preflight.content import overlap_findings
from alignkit.preflight.disk import disk_findings
from alignkit.preflight.folder import ModelFacts
from alignkit.preflight.looking import NotYetError
from alignkit.preflight.memory import Part, activations, cache, frozen, memory_findings, snapshot, trained
from alignkit.preflight.models import policy_facts, policy_traits, said_positions, scorers, tokenizer_findings
from alignkit.preflight.options import sampling_findings, usage_findings
from alignkit.preflight.prompts import longest_tokens, prompt_findings, room_findings
from alignkit.preflight.reward import length_findings, sampling_differences, sanity_findings
from alignkit.preflight.sample import READ
from alignkit.protocols import Examines
from alignkit.recipe.check import resolve

if TYPE_CHECKING:
    from alignkit_plugins.step_align.config import AlignConfig


class AlignExamination:
    """One look at the step."""

    def __init__(self, config: "AlignConfig", context: StepContext) -> None:
        self.config = config
        self.context = context
        self.stage: Any = context.build("optimizer_stage", config.optimizer_stage)
        self.needs = context.build("advantage", config.advantage).needs

    def findings(self) -> Iterator[Finding]:
        """All of them, as far as the inputs are there."""
        if not hasattr(self.stage, "update"):
            name = self.config.optimizer_stage.name
            yield Finding("R001", f"{name} learns from records", "optimizer_stage", "use step: train")
            return
        try:
            sampler_of_ids(self.config.sampler, self.context)
        except UserError as error:
            yield Finding("R001", error.what, "sampler", error.hint or "")
            return
        yield from each(
            self._of_options, self._of_prompts, self._of_models, self._of_reward, self._of_scores, self._of_room
        )

    def _of_options(self) -> Iterator[Finding]:
        if isinstance(self.stage, Examines):
            for finding in self.stage.examine(self.context):
                yield finding.inside("optimizer_stage")
        yield from sampling_findings(self.config.sampling)
        needed = self.needs.samples_per_prompt
        if self.config.samples_per_prompt < needed:
            what = f"{self.config.samples_per_prompt} is too few for {self.config.advantage.name}: {needed} are drawn"
            yield Finding("R043", what, "samples_per_prompt")
        yield from room_findings(1, self.config.sampling.max_length, said_positions(self.config.policy, self.context))

    def _of_prompts(self) -> Iterator[Finding]:
        config, context = self.config, self.context
        prompts = self._prompts
        repeat = max(config.samples_per_prompt, self.needs.samples_per_prompt)
        if prompts.complete:
            yield from usage_findings(config.iterations, config.batch_size, repeat, prompts.total)
        if config.eval_prompts is not None:
            heldout: Any = context.records(config.eval_prompts, "prompts")
        else:
            heldout = context.heldout(config.prompts, "prompts")
        if heldout is not None:
            yield from overlap_findings(prompts, Sample.of(heldout, READ))
        model = policy_facts(config.policy, context)
        if model is not None:
            yield from prompt_findings(model, prompts, config.sampling, config.max_prompt_length)

    def _of_models(self) -> Iterator[Finding]:
        """Tokenizers of the policy, its reference and its critic."""
        config, context = self.config, self.context
        policy = policy_facts(config.policy, context)
        if policy is None:
            return
        others = {"reference": ("R050", config.reference), "critic_init": ("R052", config.critic_init)}
        for option, (code, named) in others.items():
            other = None if named is None else policy_facts(named, context)
            if other is not None:
                yield from tokenizer_findings(policy, other, code, option)

    def _of_reward(self) -> Iterator[Finding]:
        """Whether the reward models can read what the policy writes."""
        config, context = self.config, self.context
        sampling = config.sampling.model_dump()
        for option, named, reward, _ in scorers(config.reward_source, context):
            where = f"reward_source.{option}"
            yield from sampling_differences(named, sampling, context)
            policy = policy_facts(config.policy, context)
            if policy is None:
                continue
            yield from tokenizer_findings(policy, reward, "R051", where)
            length = self._longest_prompt(policy) + config.sampling.max_length
            yield from length_findings(reward, named, length, context, where)

    def _of_scores(self) -> Iterator[Finding]:
        for option, named, reward, there in scorers(self.config.reward_source, self.context):
            if not there:
                raise NotYetError([named])
            yield from sanity_findings(reward, named, self.context, f"reward_source.{option}")

    def _of_room(self) -> Iterator[Finding]:
        config, context = self.config, self.context
        policy = policy_facts(config.policy, context)
        if policy is None:
            return
        traits = policy_traits(config.policy, context)
        parts = [trained("policy", policy, traits.width, traits.adapter_rank)]
        if traits.adapter_rank is None or config.reference is not None:
            parts.append(frozen("reference", policy, traits.width))
        own_critic = self.needs.critic and config.critic == "separate"
        if own_critic:
            parts.append(trained("critic", policy))
        sources = {"reward": config.reward_source, **config.monitor}
        parts += [frozen(name, m, 4) for name, spec in sources.items() for _, _, m, _ in scorers(spec, context)]
        parts += self._passing(policy, 2 if own_critic else 1, traits.checkpointed)
        changing = traits.width * policy.trained(traits.adapter_rank) + 4 * policy.parameters * own_critic
        copy = snapshot(changing, context.recipe.checkpoints, context.device)
        yield from memory_findings(parts, context.device, copy)
        weights = traits.width * policy.parameters + 4 * policy.parameters * own_critic
        yield from disk_findings(context.run.folder, weights, changing, context.recipe.checkpoints.keep)

    def _passing(self, policy: ModelFacts, models: int, checkpointed: bool) -> list[Part]:
        """What sampling and one micro-batch take."""
        config, context = self.config, self.context
        options: Any = resolve(context.manager, "optimizer_stage", config.optimizer_stage).config
        sampler: Any = resolve(context.manager, "sampler", config.sampler).config
        length = self._longest_prompt(policy) + config.sampling.max_length
        rows = -(-config.batch_size // getattr(options, "minibatches", 1))
        tokens = min(getattr(options, "micro_batch_tokens", rows * length), rows * length)
        kept = activations(
            policy,
            tokens,
            whole_logits=context.ops.choice["linear_logprob"] == EAGER,
            half=context.recipe.precision == "bfloat16",
            checkpointed=checkpointed,
        )
        at_once = min(config.batch_size, getattr(sampler, "batch_size", config.batch_size))
        return [kept._replace(bytes=models * kept.bytes), cache(policy, at_once, length)]

    @cached_property
    def _prompts(self) -> Sample:
        return Sample.of(self.context.records(self.config.prompts, "prompts"), READ)

    def _longest_prompt(self, policy: ModelFacts) -> int:
        return longest_tokens(policy, self._prompts, self.config.max_prompt_length)
