"""Options shared by training stages. No torch here: configs are read when recipes are checked."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignkit.components import Config
from alignkit.recipe.model import Operational


class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter 2019) and its schedule."""

    lr: float = Field(gt=0, le=1000, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the first and second moment")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.0, ge=0, description="decoupled; matrices only, not norms and biases")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="after the warm-up, down to zero")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of all steps during which the rate rises")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this global norm")
    on_nonfinite: Annotated[Literal["stop", "skip"], Operational()] = Field(
        "stop",
        description="a loss or gradient that is not finite stops the run, or its batch is left out and counted; the "
        "rows are saved in nonfinite.jsonl",
    )


class KeepBestConfig(Config):
    """Which measured figure says that a model is the best so far."""

    metric: str = Field(description="a figure of the measurements, under the name that it is logged by")
    mode: Literal["max", "min"] = Field(description="whether the largest or the smallest value is the best")


class KeepingConfig(Config):
    """Models that are kept beside the last one, which stays the step's output."""

    keep_best: KeepBestConfig | None = Field(
        None, description="the model with the best measurement is kept in best/ (`@ID.best`)"
    )
    keep_every: int = Field(
        0, ge=0, description="a model is kept after each so many steps or iterations (`@ID.at_40`, …); 0: none"
    )


class DataTrainingConfig(OptimizerConfig, KeepingConfig):
    """Options of every stage that learns from records."""

    epochs: float = Field(1.0, gt=0, description="passes over the data; a fraction stops early")
    batch_size: int = Field(32, ge=1, description="rows (or rankings) per optimizer step")
    micro_batch_tokens: Annotated[int, Operational()] = Field(
        8192, ge=1, description="padded tokens per forward pass; changes memory and speed only"
    )
    log_every: int = Field(10, ge=1, description="optimizer steps per row of metrics")
    eval_every: int = Field(
        0, ge=0, description="optimizer steps between measurements on held-out records; 0: at the end only"
    )

    @model_validator(mode="after")
    def _best_of_several(self) -> Self:
        if self.keep_best is not None and not self.eval_every:
            raise ValueError("keep_best needs eval_every: without it there is one measurement, at the end")
        return self


class PairTrainingConfig(DataTrainingConfig):
    """Options of every stage that learns from preferences."""

    max_length: int = Field(512, ge=2, description="tokens of prompt and completion together")
    too_long: Literal["drop", "error"] = Field(
        "drop",
        description="what happens to pairs with a longer side; counted. drop: also to those that the model has no "
        "positions for",
    )
