"""What can be seen of an evaluation before it runs: its prompts, and the two policies that answer them."""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from alignkit.context import StepContext
from alignkit.preflight import Finding, Sample, each
from alignkit.preflight.content import overlap_findings
from alignkit.preflight.models import found_or_none, policy_facts
from alignkit.preflight.prompts import prompt_findings
from alignkit.preflight.sample import READ
from alignkit.recipe import ComponentSpec
from alignkit_plugins.step_evaluate.sides import check_sides

if TYPE_CHECKING:
    from alignkit_plugins.step_evaluate.plugin import EvaluateConfig


class EvaluateExamination:
    """One look at the step."""

    def __init__(self, config: "EvaluateConfig", context: StepContext) -> None:
        self.config = config
        self.context = context

    def findings(self) -> Iterator[Finding]:
        """All of them, as far as the inputs are there."""
        there = check_sides(self.config, self.context)
        named = (("policy", self.config.policy), ("against", self.config.against))
        policies = [pair for pair, is_policy in zip(named, there, strict=True) if is_policy]
        yield from each(self._of_prompts, *(lambda o=option, p=policy: self._of(o, p) for option, policy in policies))

    def _of_prompts(self) -> Iterator[Finding]:
        """Whether the same prompts are trained on by a step of the recipe."""
        prompts = self._prompts
        for step in self.context.recipe.steps:
            named = step.options.get("prompts")
            if "optimizer_stage" not in step.options or not isinstance(named, str):
                continue
            trained = found_or_none(self.context.records, named, "prompts")
            if trained is not None:
                yield from overlap_findings(Sample.of(trained, READ), prompts)

    def _of(self, option: str, policy: str | ComponentSpec | None) -> Iterator[Finding]:
        model = policy_facts(policy, self.context)
        if model is not None:
            found = prompt_findings(model, self._prompts, self.config.sampling, self.config.max_prompt_length)
            # of the one that is compared with only what stops the run: the rest would be said twice
            yield from (f for f in found if option == "policy" or f.severity == "error")

    @cached_property
    def _prompts(self) -> Sample:
        return Sample.of(self.context.records(self.config.prompts, "prompts"), READ)
