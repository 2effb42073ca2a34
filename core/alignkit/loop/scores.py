"""Scores of completions: checked, normalised, clipped, lowered where the stop token is missing."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import Fault
from alignkit.loop.config import LoopConfig, MissingStopConfig, NormaliseConfig
from alignkit.protocols import Scores, State


class WrongFormError(Fault):
    """A source gave something else than one number per completion."""


def checked_scores(source: Scores, rollout: Rollout) -> Tensor:
    """Score the completions [B]. Raises Fault for scores of another shape or that are not finite."""
    scores_B = shaped_scores(source, rollout)
    check_finite(scores_B, rollout, "the reward source")
    return scores_B


def shaped_scores(source: Scores, rollout: Rollout) -> Tensor:
    """What the source gives for the completions [B], finite or not. Raises WrongFormError for no such tensor."""
    found: object = source.score(rollout)
    if not isinstance(found, Tensor):
        raise WrongFormError(f"the reward source returned {type(found).__name__}, not a tensor")
    if found.shape != (len(rollout),):
        shape = tuple(found.shape)
        raise WrongFormError(f"the reward source returned scores of shape {shape} for {len(rollout)} completions")
    return found.detach().float().cpu()


def check_finite(scores_B: Tensor, rollout: Rollout, who: str) -> None:
    """Raise Fault, naming the completion, if a score is not finite."""
    bad = (~torch.isfinite(scores_B)).nonzero().flatten().tolist()
    if bad:
        raise Fault(
            f"{who} scored {len(bad)} of {len(rollout)} completions as not finite, first "
            f"{float(scores_B[bad[0]])} for {rollout.texts[bad[0]][:200]!r}"
        )


@dataclass
class ScoreNormaliser:
    """(score - mean) / std, with statistics that `observe` collects (Chan et al. 1979 for joining batches)."""

    config: NormaliseConfig | None
    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    learns: bool = True

    def observe(self, scores_B: Tensor) -> None:
        """Take scores into the mean and the sum of squared deviations."""
        own_B, n = scores_B.double(), len(scores_B)
        mean = float(own_B.sum()) / n
        squares = float((own_B - mean).square().sum())
        joined = self.count + n
        self.squares += squares + (mean - self.mean) ** 2 * self.count * n / joined
        self.mean += (mean - self.mean) * n / joined
        self.count = joined

    @property
    def std(self) -> float:
        """Deviation of the scores seen, divided by n; 1 if they were all equal."""
        return (self.squares / self.count) ** 0.5 if self.squares > 0 else 1.0

    def state(self) -> dict[str, float]:
        """The statistics."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, state: State) -> None:
        """Take over a `state()`."""
        self.count, self.mean, self.squares = (float(cast("float", state[n])) for n in ("count", "mean", "squares"))

    def frozen(self) -> "ScoreNormaliser":
        """A copy that keeps these statistics whatever it is shown."""
        return replace(self, learns=False)

    def __call__(self, scores_B: Tensor) -> Tensor:
        """Normalised scores, [B]. With `running` these scores count among those seen."""
        if self.config is None:
            return scores_B
        if self.config.mode == "running" and self.learns:
            self.observe(scores_B)
        return (scores_B - self.mean) / (1.0 if self.config.mode == "reference_mean" else self.std)


def penalise_missing_stop(scores_B: Tensor, stopped_B: Tensor, config: MissingStopConfig | None) -> Tensor:
    """Scores [B] in which completions without a stop token are replaced or lowered."""
    if config is None:
        return scores_B
    other_B = torch.full_like(scores_B, config.value) if config.mode == "replace" else scores_B - config.value
    return torch.where(stopped_B, scores_B, other_B)


def final_scores(scores_B: Tensor, rollout: Rollout, normaliser: ScoreNormaliser, config: LoopConfig) -> Tensor:
    """What completions earn, [B]: normalised, then clipped, then lowered where no stop token came."""
    scores_B = normaliser(scores_B)
    if config.clip_score is not None:
        scores_B = scores_B.clamp(-config.clip_score, config.clip_score)
    return penalise_missing_stop(scores_B, rollout.stopped_B, config.missing_stop)
