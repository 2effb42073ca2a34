"""Options of the `kto` stage."""

from typing import Literal

from pydantic import Field

from alignkit.training.config import PairTrainingConfig


class KTOConfig(PairTrainingConfig):
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv 2402.01306)."""

    lr: float = Field(1e-6, gt=0, le=1000, description="peak learning rate")
    reads: Literal["labels", "preferences"] = Field(
        "labels", description="records to learn from; of preferences, chosen is good and rejected is bad"
    )
    too_long: Literal["drop", "error"] = Field(
        "drop",
        description="what happens to longer rows or pairs; counted. drop: also to those that the model has no "
        "positions for",
    )
    beta: float = Field(0.1, gt=0, description="how strongly the policy is held to the reference")
    desirable_weight: float = Field(1.0, ge=0, description="the paper's lambda_D: weight of good completions")
    undesirable_weight: float = Field(1.0, ge=0, description="the paper's lambda_U: weight of bad completions")
    reference_point: Literal["mismatched", "zero"] = Field(
        "mismatched", description="z0: KL to the reference, estimated on completions of other prompts, or 0"
    )
