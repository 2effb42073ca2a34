"""Options of the alignment loop. No torch here."""

from typing import Literal

from pydantic import Field

from alignkit.components import Config
from alignkit.records import Sampling


class KLConfig(Config):
    """The penalty -coef * (log pi - log pi_ref) on each token's reward."""

    coef: float = Field(0.05, ge=0, description="initial coefficient beta")
    target: float | None = Field(
        None, gt=0, description="KL per completion (sum over tokens, nats) that an adaptive coefficient aims at"
    )
    horizon: int = Field(10_000, ge=1, description="episodes over which the adaptive coefficient reacts")


class MissingStopConfig(Config):
    """What a completion that hit the length limit without a stop token scores."""

    mode: Literal["replace", "subtract"] = Field(
        "replace", description="replace the score (OpenAI, N+) or subtract from it (TRL)"
    )
    value: float = Field(description="the new score, or the penalty that is subtracted")


class LoopConfig(Config):
    """How completions are sampled and turned into rewards."""

    iterations: int = Field(ge=1, description="batches of completions")
    batch_size: int = Field(64, ge=1, description="completions per iteration")
    samples_per_prompt: int = Field(1, ge=1, description="completions of one prompt in a batch")
    sampling: Sampling = Field(Sampling(), description="how completions are drawn; temperature must be above 0")
    max_prompt_length: int | None = Field(
        None, ge=1, description="tokens; longer prompts are left out and counted in the summary"
    )
    kl: KLConfig = Field(KLConfig(), description="penalty for leaving the reference policy")
    missing_stop: MissingStopConfig | None = Field(None, description="penalty for completions without a stop token")
    clip_score: float | None = Field(None, gt=0, description="scores are clipped to ± this before penalties")
    whiten_rewards: bool = Field(False, description="scale rewards to unit variance over the batch, keeping their mean")
    micro_batch_tokens: int = Field(16384, ge=1, description="padded tokens per forward pass without gradient")
    eval_every: int = Field(0, ge=0, description="iterations between measurements on the eval prompts; 0: ends only")
    eval_seed: int = Field(0, ge=0, description="seed of the measurements' samples")
