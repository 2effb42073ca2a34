"""Options of the `pretrain` stage."""

from pydantic import Field

from alignkit.training.config import DataTrainingConfig


class PretrainConfig(DataTrainingConfig):
    """Next-token prediction on texts joined end to end."""

    lr: float = Field(1e-3, gt=0, le=1000, description="peak learning rate")
    block_length: int = Field(
        128, ge=2, description="tokens per row; texts follow each other, each closed by the end token"
    )
