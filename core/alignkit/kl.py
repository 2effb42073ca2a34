"""KL to the reference: estimators, the term in the loss, and the adaptive coefficient.

With d = log pi(y_t) - log pi_ref(y_t) for a token sampled from pi (Schulman 2020, "Approximating KL divergence"):
k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. k1 and k3 have the right mean, E[k] = KL(pi || pi_ref); k2 has nearly.

That says nothing about gradients. In the *reward* the penalty enters the score-function gradient, which is right for
k1 alone: E[d grad log pi] = grad KL. In the *loss* a value is differentiated instead: E[grad k1] = 0, E[grad k2] =
E[d grad log pi] = grad KL of that token, and E[grad k3] = E[(1 - exp(-d)) grad log pi] is the gradient of
KL(pi_ref || pi) (Tang and Munos 2025, arXiv 2506.09477). So `corrected` keeps an estimator's value and takes k2's
gradient. Any term in the loss also leaves out what a token does to the KL of the tokens behind it; only the reward has
that. Full-distribution KL belongs in both places at once: in the loss its own state's gradient, in the reward what
earlier tokens did to reach the state.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from alignkit.protocols import State

# exp(20) is beyond any useful ratio and still finite in float32 after multiplication with an advantage.
MAX_LOG_RATIO = 20.0

Estimator = Literal["k1", "k2", "k3", "full"]


class KLTerm(NamedTuple):
    """What an optimizer stage adds to its loss: coef * mean of the term over tokens."""

    coef: float
    estimator: Estimator
    gradient: Literal["corrected", "estimator"]


def kl_estimate(logp: Tensor, ref_logp: Tensor, estimator: Estimator) -> Tensor:
    """k1, k2 or k3 of each token, any shape. (`full` needs the distributions: `alignkit.ops.linear_kl`.)"""
    d = logp - ref_logp
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    assert estimator == "k3"
    return torch.exp((-d).clamp(max=MAX_LOG_RATIO)) - 1 + d


def kl_loss(logp_N: Tensor, old_logp_N: Tensor, ref_logp_N: Tensor, term: KLTerm) -> Tensor:
    """The sampled KL term of each token, [N]; see the module's text for the two gradients.

    `corrected`: the estimator's value with the gradient rho d grad log pi, rho = pi / pi_old correcting for tokens that
    an older policy sampled (DeepSeek-V3.2, arXiv 2512.02556, corrects k3 by the same factor).
    """
    value_N = kl_estimate(logp_N, ref_logp_N, term.estimator)
    if term.gradient == "estimator":
        return value_N
    ratio_N = (logp_N - old_logp_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    slope_N = (ratio_N * (logp_N - ref_logp_N)).detach()
    return value_N.detach() + slope_N * (logp_N - logp_N.detach())


@dataclass
class AdaptiveKL:
    """beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon) (Ziegler et al. 2019, section 2.2).

    n is the number of completions in the batch; without a target the coefficient stays.
    """

    coef: float
    target: float | None
    horizon: int

    def update(self, kl: float, episodes: int) -> None:
        """Take one batch's KL into account."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.horizon

    def state(self) -> dict[str, float]:
        """The coefficient."""
        return {"coef": self.coef}

    def restore(self, state: State) -> None:
        """Take over a `state()`."""
        self.coef = float(cast("float", state["coef"]))
