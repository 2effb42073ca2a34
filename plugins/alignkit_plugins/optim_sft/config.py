"""Options of the `sft` stage."""

from typing import Literal

from pydantic import Field

from alignkit.training.config import DataTrainingConfig


class SFTConfig(DataTrainingConfig):
    """Supervised fine-tuning on completions only."""

    lr: float = Field(2e-4, gt=0, le=1000, description="peak learning rate")
    max_length: int = Field(512, ge=2, description="tokens of prompt and completion together")
    too_long: Literal["drop", "truncate", "error"] = Field(
        "drop", description="what happens to longer rows; dropped and cut rows are counted in the summary"
    )
    packing: bool = Field(False, description="put several rows into one of max_length; they do not see each other")
