"""Options shared by training stages. No torch here: configs are read when recipes are checked."""

from typing import Literal

from pydantic import Field

from alignkit.components import Config


class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter 2019) and its schedule."""

    lr: float = Field(gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the first and second moment")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.0, ge=0, description="decoupled; matrices only, not norms and biases")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="after the warm-up, down to zero")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of all steps during which the rate rises")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this global norm")


class DataTrainingConfig(OptimizerConfig):
    """Options of every stage that learns from records."""

    epochs: float = Field(1.0, gt=0, description="passes over the data; a fraction stops early")
    batch_size: int = Field(32, ge=1, description="rows (or rankings) per optimizer step")
    micro_batch_tokens: int = Field(8192, ge=1, description="padded tokens per forward pass; changes memory only")
    log_every: int = Field(10, ge=1, description="optimizer steps per row of metrics")


class PairTrainingConfig(DataTrainingConfig):
    """Options of every stage that learns from preferences."""

    max_length: int = Field(512, ge=2, description="tokens of prompt and completion together")
    too_long: Literal["drop", "error"] = Field("drop", description="what happens to pairs with a longer side; counted")
