"""Options of the step `collect`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from alignkit.components import Config
from alignkit.recipe import ComponentSpec, LastRound, SlotOf
from alignkit.records import Sampling


class CollectConfig(Config):
    """Completions of the policy, or tasks made elsewhere, judged by people, a model or a program.

    Gives preference pairs, good/bad labels, and demonstrations where a critique came with a better answer.
    """

    policy: str | ComponentSpec | None = Field(
        None,
        description="@step or folder to sample from; default: the recipe's. Not with a sampler that has a model of its "
        "own, such as one behind a server",
    )
    prompts: str | None = Field(None, description="@step or @step.part with prompts; or give `tasks`")
    tasks: str | None = Field(
        None,
        description="JSONL file of tasks to judge instead of sampling (from `alignkit feedback import`), "
        "or @step.tasks of another collect step",
    )
    limit: int | None = Field(None, ge=1, description="prompts at most; in later rounds the next ones are taken")
    choose_by: Annotated[ComponentSpec | None, SlotOf("reward_source"), LastRound()] = Field(
        None,
        description="source of scores that chooses the prompts to ask about, from the second round on: those whose two "
        "best completions it finds hardest to tell apart. May name a later step, as it was in the round before",
    )
    pool: float = Field(3.0, ge=1.0, description="with choose_by: prompts sampled for each one that is asked about")
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
    accumulate: bool | Annotated[int, Field(ge=1)] = Field(
        True, description="rounds whose judgements are used: all so far, this one alone (false), or the newest N"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.prompts is None) == (self.tasks is None):
            raise ValueError("give either prompts, to sample completions, or tasks that are there already")
        if self.choose_by is not None and (self.limit is None or self.prompts is None):
            raise ValueError("choose_by needs prompts and a limit: how many of them are asked about")
        return self

    def of_a_policy(self) -> dict[str, object]:
        """Options that only a sampler which draws from a policy can heed."""
        return {"policy": self.policy, "max_prompt_length": self.max_prompt_length}

    @property
    def rounds_used(self) -> int | None:
        """How many rounds' judgements go into the parts; None for all."""
        if isinstance(self.accumulate, bool):
            return None if self.accumulate else 1
        return self.accumulate
