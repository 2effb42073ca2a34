"""Options of the `dpo` stage."""

from typing import Literal

from pydantic import Field

from alignkit.training.config import PairTrainingConfig


class DPOConfig(PairTrainingConfig):
    """Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290) and two variants of its loss."""

    lr: float = Field(1e-6, gt=0, le=1000, description="peak learning rate")
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid", description="sigmoid: DPO; ipo: Azar et al. 2023; hinge: as in SLiC (Zhao et al. 2023)"
    )
    beta: float = Field(0.1, gt=0, description="how strongly the policy is held to the reference; IPO's tau")
    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="share of labels taken to be wrong: p becomes (1 - e) p + e (1 - p)"
    )
    logps: Literal["sum", "mean"] | None = Field(
        None, description="log-prob of a completion: sum or mean over its tokens; null: mean for ipo, else sum"
    )
    margin_coef: float = Field(1.0, ge=0, description="factor on the pairs' margins, in units of reward; 0: none")

    @property
    def averaged(self) -> bool:
        """Whether log-probs are means over tokens."""
        return self.loss == "ipo" if self.logps is None else self.logps == "mean"
