"""Options of the alignment loop. No torch here."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignkit.components import Config
from alignkit.protocols import Whitening
from alignkit.recipe.model import Operational
from alignkit.records import Sampling
from alignkit.training.config import KeepingConfig


class WhitenedAdvantageConfig(Config):
    """Options of estimators whose advantages can be whitened."""

    whiten: bool = Field(True, description="advantages get mean 0 and variance 1 over the batch's tokens")
    whiten_variance: Literal["biased", "unbiased"] = Field("biased", description="divided by n or by n - 1")

    @property
    def whitening(self) -> Whitening | None:
        """The same for `Needs.whiten`."""
        return Whitening(self.whiten_variance) if self.whiten else None


class KLConfig(Config):
    """The penalty for leaving the reference policy; d is log pi - log pi_ref of a sampled token."""

    coef: float = Field(0.05, ge=0, description="initial coefficient beta")
    estimator: Literal["k1", "k2", "k3", "full"] = Field(
        "k1", description="k1 = d; k2 = d^2 / 2; k3 = exp(-d) - 1 + d; full: the whole distribution at each token"
    )
    placement: Literal["reward", "loss", "both"] = Field(
        "reward",
        description="part of each token's reward, a term of the loss, or (full only) both, which is its whole gradient",
    )
    gradient: Literal["corrected", "estimator"] = Field(
        "corrected", description="in the loss: the gradient of the KL, or that of the estimator as written"
    )
    target: float | None = Field(None, gt=0, description="KL that an adaptive coefficient aims at (nats)")
    target_unit: Literal["completion", "token"] = Field(
        "completion", description="the target counts the sum over a completion's tokens (OpenAI) or their mean (verl)"
    )
    horizon: int = Field(10_000, ge=1, description="episodes over which the adaptive coefficient reacts")

    @model_validator(mode="after")
    def _known_combination(self) -> Self:
        if self.placement == "both" and self.estimator != "full":
            raise ValueError("placement: both needs estimator: full; sampled estimators would be counted twice")
        return self

    @property
    def in_reward(self) -> bool:
        """Whether token rewards have the penalty."""
        return self.placement in ("reward", "both")

    @property
    def in_loss(self) -> bool:
        """Whether the optimizer stage has to add it to its loss."""
        return self.placement in ("loss", "both")


class MissingStopConfig(Config):
    """What a completion that hit the length limit without a stop token scores."""

    mode: Literal["replace", "subtract"] = Field(
        "replace", description="replace the score (OpenAI, N+) or subtract from it (TRL)"
    )
    value: float = Field(description="the new score, or the penalty that is subtracted")


class NormaliseConfig(Config):
    """A shift and scale of scores, before clipping and penalties."""

    mode: Literal["reference", "reference_mean", "running"] = Field(
        description="mean 0 and deviation 1 on the reference policy's completions (OpenAI); mean 0 only (N+); or mean "
        "and deviation of all scores so far"
    )
    samples: int = Field(256, ge=2, description="completions of the reference policy that are scored at the start")


class AskingConfig(Config):
    """What happens when a reward source raises, takes too long, or gives what is no finite number per completion."""

    retries: int = Field(2, ge=0, description="how often it is asked again")
    wait: float = Field(1.0, ge=0, description="seconds before it is asked again, doubled each time")
    timeout: float | None = Field(
        None, gt=0, description="seconds for a batch, and for each completion when it is asked about one at a time"
    )


class RewardFaultsConfig(AskingConfig):
    """The same, where a batch can do without a completion."""

    then: Literal["stop", "skip"] = Field(
        "stop", description="afterwards the run stops, or goes on without the prompts concerned, which are counted"
    )


class LoopConfig(KeepingConfig):
    """How completions are sampled and turned into rewards."""

    iterations: int = Field(ge=1, description="batches of completions")
    batch_size: int = Field(64, ge=1, description="completions per iteration")
    samples_per_prompt: int = Field(1, ge=1, description="completions of one prompt in a batch")
    sampling: Sampling = Field(Sampling(), description="how completions are drawn; temperature must be above 0")
    max_prompt_length: int | None = Field(
        None, ge=1, description="tokens; longer prompts are left out and counted in the summary"
    )
    kl: KLConfig = Field(KLConfig(), description="penalty for leaving the reference policy")
    reward_faults: Annotated[RewardFaultsConfig, Operational()] = Field(
        RewardFaultsConfig(), description="when a reward source fails"
    )
    normalise_scores: NormaliseConfig | None = Field(None, description="shift and scale of scores")
    clip_score: float | None = Field(None, gt=0, description="scores are clipped to ± this before penalties")
    missing_stop: MissingStopConfig | None = Field(None, description="penalty for completions without a stop token")
    score_position: Literal["last_token", "after_stop"] = Field(
        "last_token",
        description="where the score is paid: with the last token, or one position behind a stop token, whose value "
        "the critic then learns too (N+, TRL)",
    )
    whiten_rewards: bool = Field(False, description="scale rewards to unit variance over the batch, keeping their mean")
    whiten_variance: Literal["biased", "unbiased"] = Field("biased", description="divided by n or by n - 1")
    micro_batch_tokens: Annotated[int, Operational()] = Field(
        16384, ge=1, description="padded tokens per forward pass without gradient"
    )
    eval_every: int = Field(0, ge=0, description="iterations between measurements on the eval prompts; 0: ends only")
    eval_seed: int = Field(0, ge=0, description="seed of the measurements' samples")
