"""Options of the reward source `mixed`."""

from typing import Annotated

from pydantic import Field

from alignkit.components import Config
from alignkit.recipe import ComponentSpec, SlotOf


class MixedConfig(Config):
    """One source judges everything, another one again where the first failed or is not sure."""

    first: Annotated[ComponentSpec, SlotOf("reward_source")] = Field(
        description="who judges every task, pair by pair: ai, form pairwise"
    )
    then: Annotated[ComponentSpec, SlotOf("reward_source")] = Field(
        description="who judges the tasks that the first is unsure about, for example human"
    )
    unsure: float = Field(
        0.2, ge=0.0, le=1.0, description="a task is unsure if |2p - 1|, its mean over the task's pairs, is below this"
    )
    disagreement: float = Field(
        0.5,
        gt=0.0,
        le=1.0,
        description="a task is also unsure if the two orders prefer different sides on this share of its pairs",
    )
