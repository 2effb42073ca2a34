"""GAE as an advantage component: the op does the work."""

from torch import Tensor

from alignkit.ops import Ops
from alignkit.protocols import Needs, Whitening


class GAE:
    """Satisfies `alignkit.protocols.Advantage`; asks for a critic."""

    def __init__(self, gamma: float, lam: float, ops: Ops, whiten: Whitening | None = None) -> None:
        self.needs = Needs(critic=True, whiten=whiten)
        self.gamma = gamma
        self.lam = lam
        self.ops = ops

    def __call__(
        self, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns [B, T]; see `alignkit.ops.gae`."""
        assert values_BT is not None, "the loop builds a critic for an estimator that needs one"
        advantages_BT, returns_BT = self.ops.gae(rewards_BT, values_BT, mask_BT, self.gamma, self.lam)
        return advantages_BT, returns_BT
