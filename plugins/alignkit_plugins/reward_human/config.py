"""Options of the reward source `human`."""

from typing import Annotated

from pydantic import Field

from alignkit.components import Config
from alignkit.recipe.model import Volatile


class HumanConfig(Config):
    """Options of the reward source `human`."""

    judgements: Annotated[str | None, Volatile()] = Field(
        None,
        description="JSONL file with judgements, or a folder of such files; default: RUN FOLDER/judgements",
    )
    min_share: float = Field(
        1.0, gt=0.0, le=1.0, description="share of the tasks that must be answered before the run goes on"
    )
