"""Options of the `reinforce` stage."""

from pydantic import Field

from alignkit.training.rollout_config import RolloutTrainingConfig


class ReinforceConfig(RolloutTrainingConfig):
    """Plain policy gradient (Williams 1992)."""

    epochs: int = Field(1, ge=1, le=1, description="one pass: without a ratio, old samples would be taken for new ones")
    minibatches: int = Field(1, ge=1, description="optimizer steps per batch; above 1 the later ones are off-policy")
