"""KL estimators against exact enumeration over a small categorical distribution, in fp64."""

from typing import Literal

import pytest
import torch

from alignkit.kl import KLTerm, kl_estimate, kl_loss

THETA = torch.tensor([0.3, -1.1, 0.8, 0.1], dtype=torch.float64)
REF = torch.tensor([-0.2, 0.4, 0.9, -0.7], dtype=torch.float64).log_softmax(-1)
OLD = torch.tensor([0.1, -0.6, 0.5, 0.4], dtype=torch.float64).log_softmax(-1)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_mean_is_the_kl(estimator: Literal["k1", "k3"]) -> None:
    logp = THETA.log_softmax(-1)
    kl = (logp.exp() * (logp - REF)).sum()
    torch.testing.assert_close((logp.exp() * kl_estimate(logp, REF, estimator)).sum(), kl)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_corrected_gradient_off_policy(estimator: Literal["k1", "k2", "k3"]) -> None:
    theta = THETA.clone().requires_grad_()
    logp = theta.log_softmax(-1)
    exact = torch.autograd.grad((logp.exp() * (logp - REF)).sum(), theta, retain_graph=True)[0]
    loss = (OLD.exp() * kl_loss(logp, OLD, REF, KLTerm(1.0, estimator, "corrected"))).sum()
    torch.testing.assert_close(torch.autograd.grad(loss, theta)[0], exact)


def gradients(estimator: Literal["k1", "k2", "k3"]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E_pi[grad of the estimator as written], grad KL(pi || ref) and grad KL(ref || pi)."""
    theta = THETA.clone().requires_grad_()
    logp = theta.log_softmax(-1)
    term = kl_loss(logp, logp.detach(), REF, KLTerm(1.0, estimator, "estimator"))
    found = torch.autograd.grad((logp.detach().exp() * term).sum(), theta, retain_graph=True)[0]
    reverse = torch.autograd.grad((logp.exp() * (logp - REF)).sum(), theta, retain_graph=True)[0]
    forward = torch.autograd.grad((REF.exp() * (REF - logp)).sum(), theta)[0]
    return found, reverse, forward


def test_only_k2_has_the_gradient_of_the_kl_as_written() -> None:
    found, reverse, _ = gradients("k2")
    torch.testing.assert_close(found, reverse)
    assert gradients("k1")[0].abs().max() < 1e-12
    found, reverse, forward = gradients("k3")
    torch.testing.assert_close(found, forward)
    assert (found - reverse).abs().max() > 0.05


def test_values_of_single_tokens() -> None:
    logp, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -0.5])
    assert kl_estimate(logp, ref, "k1").tolist() == pytest.approx([0.5, -1.5])
    assert kl_estimate(logp, ref, "k2").tolist() == pytest.approx([0.125, 1.125])
    assert kl_estimate(logp, ref, "k3").tolist() == pytest.approx([0.1065307, 1.9816891])
