"""Options of the `gspo` stage."""

from pydantic import Field

from alignkit.training.rollout_config import LossAggregation, RolloutTrainingConfig


class GSPOConfig(RolloutTrainingConfig):
    """Group sequence policy optimization (Zheng et al. 2025, arXiv 2507.18071)."""

    loss_aggregation: LossAggregation = Field(
        "sequence_mean",
        description="the paper's with sequence_mean; sequence_sum with length_normalise: false has no length bias",
    )
    clip_range: float = Field(3e-4, gt=0, description="the sequence ratio counts from 1 - this")
    clip_range_high: float | None = Field(4e-4, gt=0, description="… to 1 + this; null: clip_range")
    length_normalise: bool = Field(
        True, description="the ratio's length-th root, as in the paper; false: the ratio of whole completions"
    )
