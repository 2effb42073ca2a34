"""Registers the step `evaluate`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.loop.config import AskingConfig
from alignkit.recipe import ComponentSpec, SlotOf
from alignkit.recipe.model import Operational
from alignkit.records import Sampling

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class EvaluateConfig(Config):
    """Two policies on the same prompts, compared by a judge."""

    policy: str | ComponentSpec | None = Field(None, description="@step or folder of the policy")
    against: str | None = Field(
        None, description="@step or folder of the policy it is compared with; not if against_sampler has its own model"
    )
    prompts: str = Field(description="@step or @step.part with prompts that were not trained on")
    limit: int | None = Field(None, ge=1, description="prompts at most")
    max_prompt_length: int | None = Field(
        None, ge=1, description="tokens; longer prompts are left out and counted in the summary"
    )
    sampling: Sampling = Field(Sampling(), description="how completions are drawn")
    sampler: Annotated[ComponentSpec, SlotOf("sampler")] = Field(
        ComponentSpec(name="hf"), description="what draws them"
    )
    against_sampler: Annotated[ComponentSpec | None, SlotOf("sampler")] = Field(
        None, description="what draws those of `against`; default: the same sampler"
    )
    judge: Annotated[ComponentSpec, SlotOf("reward_source")] = Field(
        description="the higher score wins; ties count 1/2"
    )
    measure: Annotated[dict[str, ComponentSpec], SlotOf("reward_source")] = Field(
        default_factory=dict, description="further scores that are averaged for both policies"
    )
    reward_faults: Annotated[AskingConfig, Operational()] = Field(
        AskingConfig(), description="when the judge or another source fails, before the run stops"
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples over prompts for the 95 % interval")
    samples: int = Field(40, ge=0, description="pairs of completions kept for the report")
    micro_batch_tokens: Annotated[int, Operational()] = Field(
        16384, ge=1, description="padded tokens per forward pass; changes memory and speed only"
    )


def build(config: EvaluateConfig, context: "BuildContext") -> Any:
    """Make the step."""
    from alignkit_plugins.step_evaluate.step import Evaluate

    return Evaluate(config)


@hookimpl
def alignkit_steps() -> Iterable[Component]:
    """Comparing policies."""
    summary = "compares two policies on held-out prompts: win rate with interval, scores, KL, diversity, samples"
    return [Component(name="evaluate", build=build, config=EvaluateConfig, summary=summary)]
