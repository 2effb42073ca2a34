"""DPO's losses against loops written from the papers; nothing but the pairs changes loss and gradients; it learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.batches import Row
from alignkit.errors import UserError
from alignkit.training.pair_stage import Known, PairTraining, accumulate_pairs, with_reference
from alignkit.training.pairs import Group, PairColumns
from alignkit.training.sequences import all_sequence_logps
from alignkit_plugins.optim_dpo.config import DPOConfig
from alignkit_plugins.optim_dpo.losses import hinge_loss, ipo_loss, smoothed
from alignkit_plugins.optim_dpo.objective import DPOObjective
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from helpers.models import assert_same_gradients, gradients, make_policy
from helpers.preferences import PAIRS, fit_task, groups_of, likes_warm, pair, plain_gradients, plain_logp

CONFIGS = [
    DPOConfig(beta=0.3),
    DPOConfig(beta=0.3, label_smoothing=0.1),
    DPOConfig(beta=0.3, logps="mean", margin_coef=0.5),
    DPOConfig(beta=0.3, loss="ipo"),
    DPOConfig(beta=0.3, loss="ipo", logps="sum"),
    DPOConfig(beta=0.3, loss="hinge"),
]


@pytest.fixture
def reference(tokenizer: Any) -> CausalLM:
    """A policy that is not the trained one, so that log-ratios are not 0."""
    return make_policy("llama", tokenizer, seed=9)


def known(reference: CausalLM, context: Any, config: DPOConfig, pairs: list[Any] = PAIRS) -> list[Known]:
    return with_reference(reference, groups_of(reference, pairs), DPOObjective(config), 4096, context.ops)


def batch_gradients(
    policy: CausalLM, batch: list[Known], config: DPOConfig, context: Any, tokens: int = 10**6
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    figures: dict[str, float] = {}

    def run() -> None:
        figures.update(accumulate_pairs(policy, batch, DPOObjective(config), tokens, context.ops))

    found = gradients(policy.module, run)
    return figures, found


def paper_loss(config: DPOConfig, h: Any, p: float, margin: float) -> Any:
    """Loss of one pair from its log-ratio difference, by the papers' equations; `p` < 1 mixes both labels."""
    p = p * (1 - config.label_smoothing) + (1 - p) * config.label_smoothing
    m = margin * config.margin_coef

    def one(h: Any) -> Any:
        if config.loss == "ipo":
            return (h - (1 / (2 * config.beta) + m / config.beta)) ** 2
        if config.loss == "hinge":
            return torch.clamp(1 + m - config.beta * h, min=0)
        return torch.log(1 + torch.exp(m - config.beta * h))

    return p * one(h) + (1 - p) * one(-h)


class TestLoss:
    @pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.loss}-{c.logps}-{c.label_smoothing}")
    def test_equals_a_loop_over_pairs_in_float64(
        self, llama: CausalLM, reference: CausalLM, context: Any, config: DPOConfig
    ) -> None:
        frozen = reference.module.double()

        def ratio(module: Any, prompt: Any, text: Any) -> torch.Tensor:
            logp, length = plain_logp(module, llama, prompt, text)
            with torch.no_grad():
                ref, _ = plain_logp(frozen, llama, prompt, text)
            mean = config.logps == "mean" or (config.logps is None and config.loss == "ipo")
            return (logp - ref) / (length if mean else 1)

        def plain(module: Any) -> torch.Tensor:
            total = torch.zeros((), dtype=torch.float64)
            for record in PAIRS:
                h = ratio(module, record.prompt, record.chosen) - ratio(module, record.prompt, record.rejected)
                total = total + record.weight * paper_loss(config, h, record.p, record.margin)
            return total / sum(record.weight for record in PAIRS)

        expected, expected_gradients = plain_gradients(llama, plain)
        reference.module.float()
        figures, found = batch_gradients(llama, known(reference, context, config), config, context)
        assert figures["loss"] == pytest.approx(expected, rel=1e-4)
        assert_same_gradients(expected_gradients, found, 2e-4)

    def test_pure_losses_on_numbers(self) -> None:
        one = torch.ones(1)
        h = torch.tensor([2.0])
        assert float(ipo_loss(h, one, 0 * one, one, 0.1)) == pytest.approx((2 - 5) ** 2)
        assert float(ipo_loss(h, 0 * one, 0 * one, 3 * one, 0.1)) == pytest.approx(3 * (2 + 5) ** 2)
        assert float(ipo_loss(h, one, 0.1 * one, one, 0.1)) == pytest.approx((2 - 6) ** 2)
        assert float(hinge_loss(h, one, 0 * one, one, 0.1)) == pytest.approx(0.8)
        assert float(hinge_loss(h, 0 * one, 0.5 * one, 2 * one, 0.1)) == pytest.approx(2 * 1.7)
        assert float(hinge_loss(20 * one, one, 0 * one, one, 0.1)) == 0.0
        assert float(smoothed(one, 0.2)) == pytest.approx(0.8)
        assert float(smoothed(0.5 * one, 0.2)) == pytest.approx(0.5)

    @pytest.mark.parametrize("config", CONFIGS[:4], ids=lambda c: c.loss)
    def test_swapped_sides_with_the_opposite_label_are_the_same(
        self, llama: CausalLM, reference: CausalLM, context: Any, config: DPOConfig
    ) -> None:
        turned = [r.model_copy(update={"chosen": r.rejected, "rejected": r.chosen, "p": 1 - r.p}) for r in PAIRS]
        first, expected = batch_gradients(llama, known(reference, context, config), config, context)
        second, found = batch_gradients(llama, known(reference, context, config, turned), config, context)
        assert second == pytest.approx(first, rel=1e-4)  # of a turned pair, the preferred side counts as chosen
        assert_same_gradients(expected, found)

    def test_a_tie_pulls_the_log_ratios_together_and_p_0_turns_the_gradient(
        self, llama: CausalLM, context: Any
    ) -> None:
        """At log-ratios of 0 a tie has no gradient, and p = 0 the opposite one of p = 1."""

        def at(p: float) -> dict[str, torch.Tensor]:
            batch = known(llama, context, DPOConfig(), [pair("the film", " is warm", " is long and dull", p=p)])
            return batch_gradients(llama, batch, DPOConfig(), context)[1]

        one, zero, tie = at(1.0), at(0.0), at(0.5)
        assert_same_gradients(one, {name: -g for name, g in zero.items()})
        scale = max(float(g.abs().max()) for g in one.values())
        assert max(float(g.abs().max()) for g in tie.values()) < 1e-5 * scale

    def test_a_margin_counts_in_units_of_reward(self, context: Any) -> None:
        columns = PairColumns.of([(0, 1, 1.0, 2.0, 1.0)], torch.device("cpu"))
        logp_B, length_B = torch.tensor([30.0, 0.0]), torch.tensor([1.0, 1.0])
        objective = DPOObjective(DPOConfig(beta=0.1))
        loss_P, reward_B = objective(logp_B, torch.zeros(2), length_B, columns, context.ops)
        assert float(loss_P) == pytest.approx(math.log1p(math.exp(-(3.0 - 2.0))))
        assert reward_B.tolist() == pytest.approx([3.0, 0.0])


class TestInvariance:
    @pytest.mark.parametrize("tokens", [1, 60, 10**6])
    @pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[3]], ids=lambda c: c.loss)
    def test_micro_batches_and_order_change_nothing(
        self, llama: CausalLM, reference: CausalLM, context: Any, config: DPOConfig, tokens: int
    ) -> None:
        batch = known(reference, context, config)
        first, expected = batch_gradients(llama, batch, config, context)
        second, found = batch_gradients(llama, batch[::-1], config, context, tokens)
        assert second == pytest.approx(first, rel=1e-4, abs=1e-5)
        assert_same_gradients(expected, found)

    def test_padding_and_the_pad_id_change_nothing(self, policy: CausalLM, reference: CausalLM, context: Any) -> None:
        config = CONFIGS[0]
        batch = known(reference, context, config)
        _, expected = batch_gradients(policy, batch, config, context)
        long = Row(list(range(6, 96)), [False] * 80 + [True] * 10)
        silent = Known(Group([long, long], [(0, 1, 0.5, 0.0, 0.0)]), torch.zeros(2))
        figures, found = batch_gradients(policy, [*batch, silent], config, context)
        assert_same_gradients(expected, found)
        policy.pad_id = 77
        again, found = batch_gradients(policy, batch, config, context)
        assert_same_gradients(expected, found)
        assert figures == pytest.approx(again, rel=1e-4, abs=1e-5)

    def test_the_texts_of_a_ranking_go_through_the_model_once_and_together(
        self, llama: CausalLM, context: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = known(llama, context, DPOConfig())
        sizes: list[int] = []
        hidden = CausalLM.hidden
        monkeypatch.setattr(CausalLM, "hidden", lambda self, b: sizes.append(len(b.ids_BT)) or hidden(self, b))
        batch_gradients(llama, batch, DPOConfig(), context, tokens=1)
        assert sorted(sizes) == [2, 2, 2, 2, 2, 3]


class TestBeforeTheFirstUpdate:
    def test_margin_is_0_and_loss_log_2_even_with_dropout_in_the_model(self, tokenizer: Any, context: Any) -> None:
        policy = make_policy("gpt2", tokenizer, dropout=0.5)
        pairs = [r for r in PAIRS if not r.margin]
        batch = known(policy, context, DPOConfig(), pairs)
        policy.module.train()
        figures, _ = batch_gradients(policy, batch, DPOConfig(), context, 100)
        assert figures["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert [figures[name] for name in ("margin", "reward_chosen", "reward_rejected")] == pytest.approx(
            [0.0] * 3, abs=1e-5
        )
        assert figures["logp_chosen"] < -1

    def test_the_reference_is_the_policy_at_the_start_and_gets_no_gradient(self, llama: CausalLM, context: Any) -> None:
        batch = known(llama, context, DPOConfig())
        rows = [row for k in batch for row in k.rows]
        expected = all_sequence_logps(llama, rows, context.ops, 1)
        assert torch.allclose(torch.cat([k.ref_logp_B for k in batch]), expected, atol=1e-4)
        with torch.no_grad():
            for parameter in llama.module.parameters():
                parameter.add_(0.01)
        figures, _ = batch_gradients(llama, batch, DPOConfig(), context)
        assert abs(figures["margin"]) > 1e-4
        assert not any(k.ref_logp_B.requires_grad for k in batch)

    def test_log_probs_are_of_the_completion_and_its_stop_token(self, policy: CausalLM, context: Any) -> None:
        groups = groups_of(policy)
        found = all_sequence_logps(policy, [row for g in groups for row in g.rows], context.ops, 200)
        double = policy.module.double()
        texts = list(dict.fromkeys((r.prompt, t) for r in PAIRS for t in (r.chosen, r.rejected)))
        assert len(texts) == len(found) == 13
        with torch.no_grad():
            expected = [float(plain_logp(double, policy, str(a), str(b))[0]) for a, b in texts]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)


def fit(policy: Any, context: Any, folder: Path, pairs: Any, heldout: Any, **options: Any) -> dict[str, Any]:
    config = DPOConfig(**options)
    return PairTraining(config, DPOObjective(config)).fit(fit_task(policy, context, pairs, heldout, folder))


class TestFit:
    @pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_learns_preferences_on_prompts_it_has_not_seen(
        self, tokenizer: Any, context: Any, tmp_path: Path, loss: str, seed: int
    ) -> None:
        policy = make_policy("llama", tokenizer, seed=seed, spread=0.1)
        train, heldout = likes_warm(64, seed), likes_warm(40, 100 + seed)
        options = {"loss": loss, "lr": 1e-3, "epochs": 3, "batch_size": 16, "log_every": 1}
        summary = fit(policy, context, tmp_path, train, heldout, **options)
        assert summary["accuracy_before"] == 0.5
        assert summary["margin_before"] == 0.0
        assert summary["accuracy"] > 0.85
        assert summary["margin"] > 0
        assert summary["loss"] < summary["loss_before"]
        assert summary["train_accuracy"] > 0.85
        assert (summary["pairs"], summary["heldout_pairs"], summary["steps"]) == (64, 40, 12)
        first = context.trackers[0].rows[0][1]
        assert first["margin"] == pytest.approx(0, abs=1e-5)
        if loss == "sigmoid":
            assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert {"heldout_loss", "heldout_accuracy", "heldout_margin"} <= context.trackers[0].rows[-1][1].keys()

    def test_saves_a_policy_that_transformers_loads(self, llama: CausalLM, context: Any, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM

        before = {n: p.detach().clone() for n, p in llama.module.named_parameters()}
        fit(llama, context, tmp_path, PAIRS, None, lr=1e-3)
        assert any(not torch.equal(before[n], p) for n, p in llama.module.named_parameters())
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
        ids = torch.tensor([llama.encode_prompt("the film")])
        with torch.no_grad():
            assert torch.allclose(plain(ids).logits, llama.module.eval()(ids).logits, atol=1e-5)
        assert getattr(PairTraining, "makes", "policy") == "policy"

    def test_long_pairs_are_dropped_and_counted(self, llama: CausalLM, context: Any, tmp_path: Path) -> None:
        long = pair("p", " long" * 40, " y")
        summary = fit(llama, context, tmp_path, [*PAIRS, long], [long, PAIRS[3]], max_length=60)
        assert (summary["pairs"], summary["groups"], summary["dropped_too_long"]) == (8, 6, 1)
        assert (summary["heldout_pairs"], summary["heldout_dropped_too_long"]) == (1, 1)
        with pytest.raises(UserError, match=r"data.jsonl:9: \d+ tokens are more than max_length 60"):
            fit(llama, context, tmp_path, [*PAIRS, long], None, max_length=60, too_long="error")
        with pytest.raises(UserError, match="no pair fits max_length 60: all 2 have a longer side"):
            fit(llama, context, tmp_path, [long, long], None, max_length=60)

    def test_heldout_pairs_that_are_all_too_long_are_counted_and_give_no_accuracy(
        self, llama: CausalLM, context: Any, tmp_path: Path
    ) -> None:
        summary = fit(llama, context, tmp_path, PAIRS, [pair("p", " long" * 40, " y")], max_length=60)
        assert (summary["heldout_pairs"], summary["heldout_dropped_too_long"]) == (0, 1)
        assert "accuracy" not in summary

    def test_no_pairs_and_pairs_without_weight_are_the_users_mistakes(
        self, llama: CausalLM, context: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match="there is no preference pair"):
            fit(llama, context, tmp_path, [], None)
        with pytest.raises(UserError, match="every pair of a batch has weight 0"):
            fit(llama, context, tmp_path, [pair("a", "b", "c", weight=0.0)], None)

    def test_rows_longer_than_the_context_are_dropped_or_the_users_mistake(
        self, llama: CausalLM, context: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match="no pair fits the model's 128 positions"):
            fit(llama, context, tmp_path, [pair("p", " long" * 60, " y")], None)
        with pytest.raises(UserError, match=r"the longest row has \d+ tokens and the model 128 positions"):
            fit(llama, context, tmp_path, [pair("p", " long" * 60, " y")], None, too_long="error")

    def test_batches_of_ties_only_do_not_spoil_the_metrics(self, llama: CausalLM, context: Any, tmp_path: Path) -> None:
        tie = pair("the film", " is warm", " is dull", p=0.5)
        fit(llama, context, tmp_path, [tie, PAIRS[3]], None, batch_size=1, log_every=2)
        row = context.trackers[0].rows[-1][1]
        assert math.isfinite(row["accuracy"])
        assert math.isfinite(row["margin"])
