"""Options of the `orpo` stage."""

from pydantic import Field

from alignkit.training.config import PairTrainingConfig


class ORPOConfig(PairTrainingConfig):
    """Odds ratio preference optimization (Hong et al. 2024, arXiv 2403.07691)."""

    lr: float = Field(8e-6, gt=0, le=1000, description="peak learning rate")
    odds_coef: float = Field(0.1, ge=0, description="the paper's lambda: weight of the odds-ratio loss beside SFT's")
