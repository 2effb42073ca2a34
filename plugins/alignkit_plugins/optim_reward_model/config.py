"""Options of the `reward_model` stage."""

from typing import Literal

from pydantic import Field

from alignkit.training.config import OptimizerConfig


class RewardModelConfig(OptimizerConfig):
    """Bradley-Terry reward model."""

    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    epochs: float = Field(1.0, gt=0, description="passes over the groups; a fraction stops early")
    batch_size: int = Field(32, ge=1, description="groups (rankings or single pairs) per optimizer step")
    micro_batch_tokens: int = Field(8192, ge=1, description="padded tokens per forward pass; changes memory only")
    max_length: int = Field(512, ge=2, description="tokens of prompt and completion together")
    too_long: Literal["drop", "error"] = Field("drop", description="what happens to pairs with a longer side; counted")
    centering: float = Field(
        0.0, ge=0, description="weight of mean((r_chosen + r_rejected)^2) (Eisenstein et al. 2023)"
    )
    overrides: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="fields of the model's own config changed for training, as attention_dropout"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the last hidden state while training")
    log_every: int = Field(10, ge=1, description="optimizer steps per row of metrics")
