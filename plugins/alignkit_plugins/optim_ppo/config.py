"""Options of the `ppo` stage."""

from pydantic import Field

from alignkit.training.rollout_config import RolloutTrainingConfig


class PPOConfig(RolloutTrainingConfig):
    """Proximal policy optimization (Schulman et al. 2017) on whole completions."""

    clip_range: float = Field(0.2, gt=0, description="the ratio counts within 1 ± this")
    clip_range_high: float | None = Field(
        None, gt=0, description="upper range if it differs (DAPO's clip-higher); default: clip_range"
    )
    dual_clip: float | None = Field(
        None, gt=1, description="for negative advantages the loss is at most this times -A (Ye et al. 2020)"
    )
