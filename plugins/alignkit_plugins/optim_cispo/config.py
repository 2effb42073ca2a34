"""Options of the `cispo` stage."""

from pydantic import Field

from alignkit.training.rollout_config import RolloutTrainingConfig


class CISPOConfig(RolloutTrainingConfig):
    """Clipped IS-weight policy optimization (MiniMax-M1, arXiv 2506.13585)."""

    clip_range_high: float = Field(0.2, gt=0, description="the weight pi / pi_old is at most 1 + this")
    clip_range: float | None = Field(
        None, gt=0, lt=1, description="… and at least 1 - this; null, as in the paper: not cut from below"
    )
