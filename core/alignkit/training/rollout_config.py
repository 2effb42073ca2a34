"""Options shared by optimizer stages that learn from rollouts. No torch here."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignkit.components import Config
from alignkit.recipe.model import Operational
from alignkit.training.config import OptimizerConfig

LossAggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]
"""What a minibatch's loss is the mean of; for options that override the default (`alignkit.masked.token_weights`)."""


class ImportanceConfig(Config):
    """Correction for a sampler whose probabilities differ from the trainer's, with w = pi_trainer / pi_sampler.

    Truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training") keeps min(w, max); masking leaves tokens or completions out whose w is outside [min, max].
    """

    level: Literal["token", "sequence"] = Field(
        "token", description="w of each token, or the product over the completion for all its tokens"
    )
    mode: Literal["truncate", "mask"] = Field("truncate", description="cut the weight, or leave out what is beyond")
    max: float = Field(2.0, gt=0, description="largest weight")
    min: float = Field(0.0, ge=0, description="with mask: smallest weight that still counts")


class RolloutTrainingConfig(OptimizerConfig):
    """Epochs, minibatches, critic and everything beside the objective itself."""

    lr: float = Field(1e-5, gt=0, le=1000, description="learning rate of the policy")
    critic_lr: float | None = Field(
        None, gt=0, le=1000, description="learning rate of the critic; the policy's by default"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the first and second moment")
    eps: float = Field(1e-5, gt=0, description="Adam epsilon; 1e-5 as in OpenAI's PPO")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="over all updates, down to zero")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all updates during which the rate rises")
    epochs: int = Field(4, ge=1, description="passes over each batch of completions")
    minibatches: int = Field(4, ge=1, description="optimizer steps per pass; a fresh permutation each pass")
    micro_batch_tokens: Annotated[int, Operational()] = Field(
        8192, ge=1, description="padded tokens per forward pass; changes memory and speed only"
    )
    loss_aggregation: LossAggregation = Field(
        "token_mean",
        description="over the minibatch: mean over tokens; mean over completions of each one's mean; sum over tokens, "
        "mean over completions; the same divided by fixed_length",
    )
    fixed_length: int | None = Field(None, ge=1, description="tokens; the divisor of loss_aggregation: fixed_length")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    value_coef: float = Field(1.0, gt=0, description="weight of the value loss")
    value_clip_range: float | None = Field(0.2, gt=0, description="values count within old value ± this; null: no clip")
    target_kl: float | None = Field(
        None, gt=0, description="a batch's remaining updates are left out once approx_kl (nats per token) is above this"
    )
    importance: ImportanceConfig | None = Field(None, description="correction for a sampler that differs")
    critic_warmup: int = Field(0, ge=0, description="iterations at the start that train the critic only")

    @model_validator(mode="after")
    def _length_belongs_to_its_aggregation(self) -> Self:
        if (self.loss_aggregation == "fixed_length") != (self.fixed_length is not None):
            raise ValueError("loss_aggregation: fixed_length and the number fixed_length belong together")
        return self
