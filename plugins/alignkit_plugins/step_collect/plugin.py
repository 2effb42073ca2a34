"""Registers the step `collect`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.recipe import ComponentSpec, SlotOf
from alignkit.records import Sampling

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class CollectConfig(Config):
    """Completions of the policy, judged by people, a model or a program: preference pairs, and good/bad labels."""

    policy: str | ComponentSpec | None = Field(
        None, description="@step or folder to sample from; default: the recipe's"
    )
    prompts: str = Field(description="@step or @step.part with prompts")
    limit: int | None = Field(None, ge=1, description="prompts at most; in later rounds the next ones are taken")
    samples_per_prompt: int = Field(4, ge=2, description="completions of each prompt (K)")
    max_prompt_length: int | None = Field(
        None, ge=1, description="tokens; longer prompts are left out and counted in the summary"
    )
    sampling: Sampling = Field(Sampling(), description="how completions are drawn")
    sampler: Annotated[ComponentSpec, SlotOf("sampler")] = Field(
        ComponentSpec(name="hf"), description="what draws them"
    )
    reward_source: Annotated[ComponentSpec, SlotOf("reward_source")] = Field(description="who judges")
    overlap: int = Field(1, ge=1, description="annotators per task")
    heldout: float = Field(0.1, ge=0, lt=1, description="share of prompts whose pairs are kept for measuring")
    rating_threshold: float = Field(1.0, gt=0, description="ratings make a pair when they differ by at least this")
    accumulate: bool = Field(True, description="later rounds add to the pairs of the rounds before")


def build(config: CollectConfig, context: "BuildContext") -> Any:
    """Make the step."""
    from alignkit_plugins.step_collect.step import Collect

    return Collect(config)


@hookimpl
def alignkit_steps() -> Iterable[Component]:
    """Collecting feedback."""
    summary = "samples K completions per prompt and has them judged by the reward source"
    tags = frozenset({"keeps_partial"})  # people judge the very completions that were published
    return [Component(name="collect", build=build, config=CollectConfig, summary=summary, tags=tags)]
