"""Options of the reward source `human`."""

from typing import Annotated, Literal

from pydantic import Field

from alignkit.components import Config
from alignkit.recipe import Operational


class HumanConfig(Config):
    """Options of the reward source `human`."""

    form: Literal["ranking", "pairwise", "rating", "binary", "critique"] = Field(
        "ranking",
        description="what people are asked: to rank all candidates of a task, which of two is better (every pair), "
        "or of each candidate to rate it, call it good or bad, or criticise it",
    )
    question: Annotated[str, Operational()] = Field(
        "", description="one line above every task; empty: the form's own words"
    )
    guidelines: Annotated[str | None, Operational()] = Field(
        None, description="markdown file that people read and acknowledge before their first task"
    )
    scale: tuple[int, int] = Field((1, 7), description="lowest and highest rating of the form rating")
    gold: Annotated[str | None, Operational()] = Field(
        None,
        description="JSONL file of tasks whose answer is known (`gold`); everybody gets them among the others, "
        "nothing learns from them",
    )
    gold_every: Annotated[int, Operational()] = Field(
        10, ge=1, description="a gold task for so many others, or for fewer if there are many gold tasks"
    )
    judgements: Annotated[str | None, Operational()] = Field(
        None,
        description="JSONL file with further judgements, or a folder of such files; default: RUN FOLDER/judgements",
    )
    min_share: Annotated[float, Operational()] = Field(
        1.0, gt=0.0, le=1.0, description="share of the questions that must be answered before the run goes on"
    )
    wait: Annotated[bool, Operational()] = Field(
        False, description="stay until enough is answered, instead of pausing the run (exit status 3)"
    )
