"""ORPO's two terms against a loop written from the paper; it needs no reference; it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.training.pair_stage import PairTraining, accumulate_pairs, with_reference
from alignkit_plugins.optim_orpo.config import ORPOConfig
from alignkit_plugins.optim_orpo.losses import log_odds
from alignkit_plugins.optim_orpo.objective import ORPOObjective
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from helpers.models import assert_same_gradients, gradients, make_policy
from helpers.preferences import PAIRS, fit_task, groups_of, likes_warm, plain_gradients, plain_logp


def batch_gradients(
    policy: CausalLM, context: Any, config: ORPOConfig, tokens: int = 10**6, turn: bool = False
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    objective = ORPOObjective(config)
    batch = with_reference(policy, groups_of(policy), objective, tokens, context.ops)
    figures: dict[str, float] = {}

    def run() -> None:
        figures.update(accumulate_pairs(policy, batch[::-1] if turn else batch, objective, tokens, context.ops))

    found = gradients(policy.module, run)
    return figures, found


@pytest.mark.parametrize("coef", [0.0, 0.1, 2.0])
def test_equals_a_loop_over_pairs_in_float64(llama: CausalLM, context: Any, coef: float) -> None:
    def plain(module: Any) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for record in PAIRS:
            sides = []
            for text in (record.chosen, record.rejected):
                logp, length = plain_logp(module, llama, str(record.prompt), str(text))
                p = torch.exp(logp / length)
                sides.append((p, torch.log(p / (1 - p))))
            (p_w, odds_w), (p_l, odds_l) = sides
            for share, likelihood, ratio in ((record.p, p_w, odds_w - odds_l), (1 - record.p, p_l, odds_l - odds_w)):
                loss = -torch.log(likelihood) - coef * torch.log(torch.sigmoid(ratio - record.margin))
                total = total + record.weight * share * loss
        return total / sum(record.weight for record in PAIRS)

    expected, expected_gradients = plain_gradients(llama, plain)
    figures, found = batch_gradients(llama, context, ORPOConfig(odds_coef=coef))
    assert figures["loss"] == pytest.approx(expected, rel=1e-4)
    assert_same_gradients(expected_gradients, found, 2e-4)


@pytest.mark.parametrize("tokens", [1, 60])
def test_micro_batches_and_order_change_nothing(llama: CausalLM, context: Any, tokens: int) -> None:
    first, expected = batch_gradients(llama, context, ORPOConfig())
    second, found = batch_gradients(llama, context, ORPOConfig(), tokens, turn=True)
    assert second == pytest.approx(first, rel=1e-4)
    assert_same_gradients(expected, found)


def test_log_odds_are_exact_from_very_unlikely_to_nearly_sure() -> None:
    """Against float64, also the gradient 1 / (1 - P); both finite at P = 1."""
    logp_B = torch.tensor([-50.0, -5.0, -0.7, -0.693, -0.69, -0.1, -1e-3, -1e-5, 0.0], requires_grad=True)
    found_B = log_odds(logp_B)
    found_B.sum().backward()
    assert logp_B.grad is not None
    exact_B = logp_B.detach().double()[:-1]
    expected_B = exact_B - torch.log1p(-exact_B.exp())
    assert found_B.detach()[:-1].tolist() == pytest.approx(expected_B.tolist(), rel=1e-5, abs=1e-6)
    assert logp_B.grad[:-1].tolist() == pytest.approx((1 / -torch.expm1(exact_B)).tolist(), rel=1e-5)
    assert bool(torch.isfinite(found_B).all())
    assert bool(torch.isfinite(logp_B.grad).all())


def test_there_is_no_reference_pass(llama: CausalLM, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CausalLM, "hidden", lambda *_: pytest.fail("a forward pass"))
    batch = with_reference(llama, groups_of(llama), ORPOObjective(ORPOConfig()), 4096, context.ops)
    assert all(float(k.ref_logp_B.abs().sum()) == 0 for k in batch)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_preferences_and_imitates_the_preferred_side(
    tokenizer: Any, context: Any, tmp_path: Path, seed: int
) -> None:
    policy = make_policy("llama", tokenizer, seed=seed, spread=0.1)
    task = fit_task(policy, context, likes_warm(64, seed), likes_warm(40, 100 + seed), tmp_path)
    config = ORPOConfig(lr=1e-3, epochs=3, batch_size=16, odds_coef=1.0, log_every=1)
    summary = PairTraining(config, ORPOObjective(config)).fit(task)
    assert summary["accuracy"] > 0.85
    assert summary["accuracy"] > summary["accuracy_before"]
    assert summary["loss"] < summary["loss_before"]
    rows = [row for _, row in context.trackers[0].rows if "logp_chosen" in row]
    assert rows[-1]["logp_chosen"] > rows[0]["logp_chosen"] + 5
    assert (tmp_path / "model" / "model.safetensors").is_file()
