"""Options of the `reward_model` stage."""

from pydantic import Field

from alignkit.training.config import PairTrainingConfig


class RewardModelConfig(PairTrainingConfig):
    """Bradley-Terry reward model."""

    lr: float = Field(1e-4, gt=0, le=1000, description="peak learning rate")
    centering: float = Field(
        0.0, ge=0, description="weight of mean((r_chosen + r_rejected)^2) (Eisenstein et al. 2023)"
    )
    overrides: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="fields of the model's own config changed for training, as attention_dropout"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the last hidden state while training")
