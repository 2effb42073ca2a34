"""Options of the `ppo` stage."""

from typing import Literal

from pydantic import Field

from alignkit.training.config import OptimizerConfig


class PPOConfig(OptimizerConfig):
    """Proximal policy optimization (Schulman et al. 2017) on whole completions."""

    lr: float = Field(1e-5, gt=0, description="learning rate of the policy")
    critic_lr: float | None = Field(None, gt=0, description="learning rate of the critic; the policy's by default")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the first and second moment")
    eps: float = Field(1e-5, gt=0, description="Adam epsilon; 1e-5 as in OpenAI's PPO")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="over all updates, down to zero")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all updates during which the rate rises")
    epochs: int = Field(4, ge=1, description="passes over each batch of completions")
    minibatches: int = Field(4, ge=1, description="optimizer steps per pass; a fresh permutation each pass")
    micro_batch_tokens: int = Field(8192, ge=1, description="padded tokens per forward pass; changes memory only")
    clip_range: float = Field(0.2, gt=0, description="the ratio counts within 1 ± this")
    value_clip_range: float | None = Field(0.2, gt=0, description="values count within old value ± this; null: no clip")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    whiten_advantages: bool = Field(True, description="zero mean and unit variance over the batch's tokens")
    critic_warmup: int = Field(0, ge=0, description="iterations at the start that train the critic only")
