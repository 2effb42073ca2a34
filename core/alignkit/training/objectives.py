"""What an optimizer stage maximises on sampled tokens: losses per token from log-probs and advantages."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from alignkit.kl import MAX_LOG_RATIO
from alignkit.ops import Ops
from alignkit.ops.policy_loss import ratio_diagnostics


class Objective(Protocol):
    """The heart of a rollout stage.

    The loss of token t may send gradient to logp_t alone: tokens have advantages and weights of their own, and one
    that has none must not be pushed by its neighbours. A ratio s of whole completions is therefore detached, and its
    gradient written on each token with a factor that is 1 (the token form of GSPO, Zheng et al. 2025, equation 14):

        token_N = log_ratio(logp_N, old_logp_N)
        s_N = sequence_mean(token_N, row_N).exp()
        loss_N = -advantages_N * s_N.detach() * (logp_N - logp_N.detach()).exp()
        return loss_N, ratio_diagnostics(token_N, clipped_N=torch.zeros_like(logp_N))

    `RolloutTraining` takes the mean of the losses by `loss_aggregation`, over the tokens of the minibatch
    (`token_mean`) unless the options or their default say otherwise. A paper whose loss is a mean over completions
    means `sequence_mean`.
    """

    def __call__(
        self, logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, row_N: Tensor, ops: Ops
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token [N], to be summed with weights, and diagnostics [N] (see `ratio_diagnostics`).

        Proportional to the advantage's size: importance weights, which are not negative, are on the advantages.

        `row_N` numbers the completion of each token; a completion is never split over calls.
        """
        ...


@runtime_checkable
class FusedObjective(Protocol):
    """An objective that `ops.fused_linear_policy_loss` covers, so that no logits need be kept for the backward pass."""

    @property
    def fused_arguments(self) -> Mapping[str, Any]:
        """Its constants, by that op's names."""
        ...


def fused_arguments(objective: Objective) -> Mapping[str, Any] | None:
    """The constants of an objective that the fused op covers, else None.

    A subclass that overrides `__call__` has another loss: what it inherits does not speak for it.
    """
    if not isinstance(objective, FusedObjective):
        return None
    classes = type(objective).__mro__
    speaker, loss = (
        next((c for c in classes if name in vars(c)), type(objective)) for name in ("fused_arguments", "__call__")
    )
    return objective.fused_arguments if issubclass(speaker, loss) else None


def log_ratio(logp_N: Tensor, old_logp_N: Tensor) -> Tensor:
    """log pi / pi_old of each token, within ±20, [N]."""
    return (logp_N - old_logp_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def sequence_mean(x_N: Tensor, row_N: Tensor, normalise: bool = True) -> Tensor:
    """Mean (or sum) of each completion's values, written to each of its tokens, [N]; in a loss: see `Objective`."""
    rows = int(row_N.max()) + 1 if len(row_N) else 0
    sums_B = torch.zeros(rows, dtype=x_N.dtype, device=x_N.device).index_add(0, row_N, x_N)
    counts_B = torch.zeros_like(sums_B).index_add(0, row_N, torch.ones_like(x_N))
    return (sums_B / counts_B if normalise else sums_B)[row_N]


__all__ = ["FusedObjective", "Objective", "fused_arguments", "log_ratio", "ratio_diagnostics", "sequence_mean"]
