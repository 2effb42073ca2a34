"""Each op against a plain float64 loop written from the paper, over shapes and masks that hypothesis draws."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.batches import Head
from alignkit.ops import gae, linear_logprob, pairwise_loss, policy_loss, value_loss

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def prefix_mask(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


class TestGAE:
    @quick
    @given(
        st.lists(st.integers(1, 9), min_size=1, max_size=5),
        st.floats(0.1, 1.0),
        st.floats(0.0, 1.0),
        seeds,
    )
    def test_equals_the_sum_of_discounted_deltas(self, lengths: list[int], gamma: float, lam: float, seed: int) -> None:
        # Schulman et al. 2016, equation 14: A_t = sum_l (gamma lam)^l delta_{t+l}, with V = 0 behind the end.
        torch.manual_seed(seed)
        mask = prefix_mask(lengths)
        rewards, values = torch.randn(mask.shape, dtype=torch.float64), torch.randn(mask.shape, dtype=torch.float64)
        advantages, returns = gae(rewards, values, mask, gamma, lam)
        for b, n in enumerate(lengths):
            v = [*values[b, :n].tolist(), 0.0]
            r = rewards[b, :n].tolist()
            delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
            for t in range(n):
                expected = sum((gamma * lam) ** k * delta[t + k] for k in range(n - t))
                assert float(advantages[b, t]) == pytest.approx(expected, abs=1e-9)
                assert float(returns[b, t]) == pytest.approx(expected + v[t], abs=1e-9)
            assert not advantages[b, n:].any()
            assert not returns[b, n:].any()

    def test_with_lambda_one_the_return_is_the_discounted_sum_of_rewards(self) -> None:
        rewards = torch.tensor([[1.0, 2.0, 4.0]])
        _, returns = gae(rewards, torch.randn(1, 3), torch.ones(1, 3, dtype=torch.bool), 0.5, 1.0)
        assert returns.tolist() == [pytest.approx([1 + 1 + 1, 2 + 2, 4], abs=1e-6)]

    def test_values_behind_the_end_do_not_leak_in(self) -> None:
        mask = torch.tensor([[True, True, False]])
        rewards = torch.tensor([[0.0, 1.0, 99.0]])
        clean = gae(rewards, torch.tensor([[0.5, 0.5, 0.0]]), mask, 1.0, 0.9)
        dirty = gae(rewards, torch.tensor([[0.5, 0.5, 1e6]]), mask, 1.0, 0.9)
        assert torch.equal(clean[0], dirty[0])
        assert torch.equal(clean[1], dirty[1])


class TestPolicyLoss:
    @quick
    @given(st.integers(1, 20), st.floats(0.05, 0.5), st.floats(0.05, 0.5), seeds)
    def test_equals_the_papers_minimum(self, n: int, low: float, high: float, seed: int) -> None:
        torch.manual_seed(seed)
        logp = (torch.randn(n, dtype=torch.float64) * 0.7).requires_grad_()
        old, advantages = torch.randn(n, dtype=torch.float64) * 0.7, torch.randn(n, dtype=torch.float64)
        loss, diagnostics = policy_loss(logp, old, advantages, low, high)
        gradient = torch.autograd.grad(loss.sum(), logp)[0]
        loss, logp = loss.detach(), logp.detach()
        diagnostics = {name: value.detach() for name, value in diagnostics.items()}
        for i in range(n):
            a = float(advantages[i])
            rho = math.exp(float(logp[i]) - float(old[i]))
            clip = min(max(rho, 1 - low), 1 + high)
            # equation 7 is maximised: L = min(rho A, clip(rho) A); the op returns -L
            assert float(loss[i]) == pytest.approx(-min(rho * a, clip * a), rel=1e-9)
            taken = clip * a < rho * a
            assert float(diagnostics["clipped"][i]) == float(taken)
            assert float(gradient[i]) == pytest.approx(0.0 if taken else -rho * a, rel=1e-9)
            assert float(diagnostics["ratio"][i]) == pytest.approx(rho, rel=1e-9)
            assert float(diagnostics["approx_kl"][i]) == pytest.approx(rho - 1 - math.log(rho), abs=1e-9)

    def test_equal_log_probs_give_ratio_one_and_nothing_clipped(self) -> None:
        logp = torch.randn(50)
        loss, diagnostics = policy_loss(logp, logp.clone(), torch.ones(50), 0.2, 0.2)
        assert torch.equal(diagnostics["ratio"], torch.ones(50))
        assert not diagnostics["clipped"].any()
        assert not diagnostics["approx_kl"].any()
        assert torch.equal(loss, -torch.ones(50))

    def test_a_huge_log_ratio_stays_finite(self) -> None:
        loss, _ = policy_loss(torch.tensor([0.0]), torch.tensor([-500.0]), torch.tensor([-2.0]), 0.2, 0.2)
        assert math.isfinite(float(loss))


class TestValueLoss:
    @quick
    @given(st.integers(1, 20), st.one_of(st.none(), st.floats(0.05, 1.0)), seeds)
    def test_equals_the_larger_of_two_squares(self, n: int, clip: float | None, seed: int) -> None:
        torch.manual_seed(seed)
        values = torch.randn(n, dtype=torch.float64, requires_grad=True)
        old, returns = torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
        loss = value_loss(values, old, returns, clip)
        gradient = torch.autograd.grad(loss.sum(), values)[0]
        loss, values = loss.detach(), values.detach()
        for i in range(n):
            v, o, r = float(values[i]), float(old[i]), float(returns[i])
            near = v if clip is None else min(max(v, o - clip), o + clip)
            assert float(loss[i]) == pytest.approx(0.5 * max((v - r) ** 2, (near - r) ** 2), rel=1e-9)
            plain = near == v or (v - r) ** 2 > (near - r) ** 2
            assert float(gradient[i]) == pytest.approx(v - r if plain else 0.0, abs=1e-9)


class TestPairwiseLoss:
    @quick
    @given(st.integers(1, 20), seeds)
    def test_equals_the_weighted_cross_entropy(self, n: int, seed: int) -> None:
        torch.manual_seed(seed)
        chosen, rejected = torch.randn(2, n, dtype=torch.float64) * 3
        chosen.requires_grad_()
        p, weight, margin = torch.rand(3, n, dtype=torch.float64)
        loss = pairwise_loss(chosen, rejected, p, margin, weight)
        gradient = torch.autograd.grad(loss.sum(), chosen)[0]
        loss, chosen = loss.detach(), chosen.detach()
        for i in range(n):
            d, m = float(chosen[i] - rejected[i]), float(margin[i])
            win, lose = 1 / (1 + math.exp(m - d)), 1 / (1 + math.exp(m + d))
            w, soft = float(weight[i]), float(p[i])
            assert float(loss[i]) == pytest.approx(-w * (soft * math.log(win) + (1 - soft) * math.log(lose)), rel=1e-9)
            assert float(gradient[i]) == pytest.approx(-w * (soft * (1 - win) - (1 - soft) * (1 - lose)), abs=1e-9)

    def test_a_tie_is_best_at_equal_scores(self) -> None:
        half, zero, one = torch.tensor([0.5]), torch.zeros(1), torch.ones(1)
        at = {d: float(pairwise_loss(torch.tensor([d]), zero, half, zero, one)) for d in (-1.0, 0.0, 1.0)}
        assert at[0.0] == pytest.approx(math.log(2))
        assert at[-1.0] == pytest.approx(at[1.0])
        assert at[1.0] > at[0.0]

    def test_swapping_the_sides_and_p_changes_nothing(self) -> None:
        a, b, p, m, w = torch.randn(5, 8)
        p, m = p.sigmoid(), m.abs()
        assert torch.allclose(pairwise_loss(a, b, p, m, w), pairwise_loss(b, a, 1 - p, m, w))

    def test_extreme_differences_stay_finite(self) -> None:
        one = torch.ones(1)
        assert float(pairwise_loss(-1e4 * one, 1e4 * one, one, 0 * one, one)) == pytest.approx(2e4)


def head(bias: bool, softcap: float | None, scale: float, seed: int = 0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(17, 6, generator=generator)
    return Head(weight, torch.randn(17, generator=generator) if bias else None, softcap, scale)


def reference(
    h: torch.Tensor, head: Head, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token by token in float64, with sums written out."""
    logps, entropies = [], []
    for n in range(len(targets)):
        z = torch.stack([(h[n] * head.weight_VH[v]).sum() for v in range(head.weight_VH.shape[0])])
        z = z if head.bias_V is None else z + head.bias_V
        z = z * head.scale
        if head.softcap is not None:
            z = head.softcap * torch.tanh(z / head.softcap)
        z = z / temperature
        logz = z.max() + torch.log(torch.exp(z - z.max()).sum())
        logps.append(z[targets[n]] - logz)
        entropies.append(-(torch.exp(z - logz) * (z - logz)).sum())
    return torch.stack(logps), torch.stack(entropies)


class TestLinearLogprob:
    @pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
    @pytest.mark.parametrize(
        ("bias", "softcap", "scale"), [(False, None, 1.0), (True, None, 1.0), (False, 3.0, 1.0), (True, 2.0, 0.25)]
    )
    def test_values_and_gradients_equal_a_loop(
        self, bias: bool, softcap: float | None, scale: float, temperature: float
    ) -> None:
        one = head(bias, softcap, scale)
        torch.manual_seed(1)
        h, targets = torch.randn(9, 6), torch.randint(0, 17, (9,))
        mix = torch.randn(2, 9)

        def results(
            function: Callable[..., tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype
        ) -> list[torch.Tensor]:
            leaf = h.to(dtype).detach().requires_grad_()
            weight = one.weight_VH.to(dtype).detach().requires_grad_()
            b = None if one.bias_V is None else one.bias_V.to(dtype).detach().requires_grad_()
            logp, entropy = function(leaf, Head(weight, b, softcap, scale), targets, temperature)
            (mix[0].to(dtype) @ logp + mix[1].to(dtype) @ entropy).backward()
            found = [logp.detach(), entropy.detach(), leaf.grad, weight.grad, *([] if b is None else [b.grad])]
            return [x.double() for x in found if x is not None]

        def op(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
            return linear_logprob(*arguments, with_entropy=True)  # type: ignore[arg-type]

        got, expected = results(op, torch.float32), results(reference, torch.float64)
        assert len(got) == len(expected) == 4 + bias
        for a, b in zip(got, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    def test_probabilities_of_all_tokens_sum_to_one(self) -> None:
        h = torch.randn(1, 6).repeat(17, 1)
        logp, _ = linear_logprob(h, head(True, None, 1.0), torch.arange(17), 0.7)
        assert float(logp.exp().sum()) == pytest.approx(1, abs=1e-5)

    def test_without_entropy_it_is_zero(self) -> None:
        _, entropy = linear_logprob(torch.randn(3, 6), head(False, None, 1.0), torch.tensor([0, 1, 2]))
        assert not entropy.any()

    def test_no_target_gives_empty_results_with_a_graph(self) -> None:
        h = torch.randn(0, 6, requires_grad=True)
        logp, entropy = linear_logprob(h, head(False, None, 1.0), torch.zeros(0, dtype=torch.long))
        assert logp.shape == entropy.shape == (0,)

    def test_a_bfloat16_model_is_normalised_in_float32(self) -> None:
        h, one = torch.randn(4, 6).bfloat16(), head(False, None, 1.0)
        low = Head(one.weight_VH.bfloat16())
        logp, _ = linear_logprob(h.repeat(17, 1), low, torch.arange(17).repeat_interleave(4))
        assert logp.dtype == torch.float32
        assert np.allclose(logp.exp().view(17, 4).sum(0).numpy(), 1, atol=1e-5)
