"""Options of the `reward_model` stage."""

from typing import Literal

from pydantic import Field

from alignkit.training.config import DataTrainingConfig


class RewardModelConfig(DataTrainingConfig):
    """Bradley-Terry reward model."""

    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    max_length: int = Field(512, ge=2, description="tokens of prompt and completion together")
    too_long: Literal["drop", "error"] = Field("drop", description="what happens to pairs with a longer side; counted")
    centering: float = Field(
        0.0, ge=0, description="weight of mean((r_chosen + r_rejected)^2) (Eisenstein et al. 2023)"
    )
    overrides: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="fields of the model's own config changed for training, as attention_dropout"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the last hidden state while training")
