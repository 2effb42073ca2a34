"""Options of the step `align`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from alignkit.loop.config import LoopConfig
from alignkit.recipe import ComponentSpec, SlotOf
from alignkit_plugins.step_align.compat import with_compat


class AlignConfig(LoopConfig):
    """The alignment loop: the four slots, prompts, and how rewards are made."""

    policy: str | ComponentSpec | None = Field(None, description="@step or folder of the policy to improve")
    reference: str | None = Field(
        None, description="@step or folder the KL is measured to; default: the policy's start"
    )
    reward_source: Annotated[ComponentSpec, SlotOf("reward_source")] = Field(description="what scores completions")
    advantage: Annotated[ComponentSpec, SlotOf("advantage")] = Field(
        ComponentSpec(name="gae"), description="advantage estimator"
    )
    optimizer_stage: Annotated[ComponentSpec, SlotOf("optimizer_stage")] = Field(
        ComponentSpec(name="ppo"), description="how the policy is updated"
    )
    sampler: Annotated[ComponentSpec, SlotOf("sampler")] = Field(
        ComponentSpec(name="hf"), description="how completions are drawn"
    )
    prompts: str = Field(description="@step or @step.part with prompts")
    eval_prompts: str | None = Field(None, description="prompts for measurements; default: those held back")
    eval_limit: int = Field(256, ge=1, description="prompts used for measurements, from the start of the file")
    critic: Literal["separate", "shared"] = Field(
        "separate", description="a model of its own, or a head on the policy's trunk"
    )
    critic_init: str | None = Field(None, description="@step of a reward model whose backbone the critic starts from")
    critic_head: Literal["zero", "reward_model"] = Field(
        "zero", description="the critic's head: new at zero, or that of critic_init, which already predicts scores"
    )
    compat: Literal["openai", "n_plus", "verl"] | None = Field(
        None, description="options that the references disagree on, as one of them has them; those given here win"
    )
    monitor: Annotated[dict[str, ComponentSpec], SlotOf("reward_source")] = Field(
        default_factory=dict, description="further reward sources that are measured, never trained on"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        return with_compat(data) if isinstance(data, Mapping) and data.get("compat") else data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.critic_head == "reward_model" and self.critic_init is None:
            raise ValueError("critic_head: reward_model needs critic_init")
        if self.critic == "shared" and self.critic_init is not None:
            raise ValueError("a shared critic has the policy's trunk: leave critic_init out, or set critic: separate")
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature must be above 0: a greedy policy has no log-probs to improve")
        return self
