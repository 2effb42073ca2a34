"""KTO's loss and reference point against a loop written from the paper, from labels and from pairs; it learns."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.errors import UserError
from alignkit.records import LabelledCompletion
from alignkit.training.sequences import completion_row
from alignkit_plugins.optim_kto.config import KTOConfig
from alignkit_plugins.optim_kto.examples import from_labels, from_pairs, mismatched_rows
from alignkit_plugins.optim_kto.losses import kto_loss, mean_reference_point, ranked_share
from alignkit_plugins.optim_kto.stage import KTO, Known, accumulate_labels, with_reference
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from helpers.models import assert_same_gradients, gradients, make_policy
from helpers.preferences import PAIRS, fit_task, groups_of, likes_warm, pair, plain_gradients, plain_logp


def label(prompt: str, completion: str, good: bool, weight: float = 1.0) -> LabelledCompletion:
    return LabelledCompletion(prompt=prompt, completion=completion, label=good, weight=weight)


LABELS = [
    label("the film", " won me over", True),
    label("the film", " is long and dull", False),
    label("this thriller about two brothers", " is warm", True, 2.0),
    label("I", " left early with a score", False, 0.5),
    label("a quiet", " story", True),
]
CONFIG = KTOConfig(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)


@pytest.fixture
def reference(tokenizer: Any) -> CausalLM:
    return make_policy("llama", tokenizer, seed=9)


def known(reference: CausalLM, context: Any, config: KTOConfig = CONFIG) -> list[Known]:
    if config.reads == "labels":
        groups, _ = from_labels(LABELS, partial(completion_row, reference), config.max_length, config.too_long, "x")
    else:
        groups = [from_pairs(group) for group in groups_of(reference)]
    return with_reference(reference, groups, config, 0, context.ops)[0]


def batch_gradients(
    policy: CausalLM, batch: list[Known], config: KTOConfig, context: Any
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    figures: dict[str, float] = {}
    found = gradients(policy.module, lambda: figures.update(accumulate_labels(policy, batch, config, context.ops)))
    return figures, found


class TestLoss:
    @pytest.mark.parametrize("reads", ["labels", "preferences"])
    @pytest.mark.parametrize("point", ["mismatched", "zero"])
    def test_equals_a_loop_over_completions_in_float64(
        self, tokenizer: Any, reference: CausalLM, context: Any, reads: str, point: str
    ) -> None:
        """From pairs, one term per pair and side, chosen good and rejected bad; with 1 - p the other way round."""
        policy = make_policy("llama", tokenizer, seed=4, spread=0.1)  # nearer to uniform: z0 > 0
        config = CONFIG.model_copy(update={"reads": reads, "reference_point": point})
        batch = known(reference, context, config)
        if reads == "labels":
            terms = [(r.prompt, r.completion, r.label, r.weight) for r in LABELS]
        else:
            terms = []
            for r in PAIRS:
                terms += [(r.prompt, r.chosen, True, r.weight * r.p), (r.prompt, r.rejected, False, r.weight * r.p)]
                turned = r.weight * (1 - r.p)
                terms += [(r.prompt, r.chosen, False, turned), (r.prompt, r.rejected, True, turned)]
        double, frozen = policy.module.double(), reference.module.double()

        def ratio(module: Any, prompt: Any, text: Any) -> torch.Tensor:
            with torch.no_grad():
                ref, _ = plain_logp(frozen, policy, prompt, text)
            return plain_logp(module, policy, prompt, text)[0] - ref

        z0 = torch.zeros((), dtype=torch.float64)
        if point == "mismatched":
            total, weights = 0.0, 0.0
            for k in batch:
                for row, good, bad in zip(k.mismatched, k.group.good, k.group.bad, strict=True):
                    start = list(row.target).index(True)
                    texts = policy.decode(row.ids[:start]), policy.decode(row.ids[start:])
                    with torch.no_grad():
                        total += (good + bad) * float(ratio(double, *texts))
                    weights += good + bad
            z0 = z0 + max(0.0, total / weights)
            assert float(z0) > 0  # so that the test sees it

        def plain(module: Any) -> torch.Tensor:
            loss = torch.zeros((), dtype=torch.float64)
            for prompt, text, good, weight in terms:
                x = config.beta * (ratio(module, prompt, text) - z0)
                value = 1.2 * torch.sigmoid(x) if good else 0.7 * torch.sigmoid(-x)
                loss = loss + weight * ((1.2 if good else 0.7) - value)
            return loss / sum(weight for *_, weight in terms)

        expected, expected_gradients = plain_gradients(policy, plain)
        policy.module.float()
        reference.module.float()
        figures, found = batch_gradients(policy, batch, config, context)
        assert figures["loss"] == pytest.approx(expected, rel=1e-4)
        assert figures["kl"] == pytest.approx(float(z0), rel=1e-4, abs=1e-5)
        assert_same_gradients(expected_gradients, found, 5e-4)

    def test_pure_loss_on_numbers(self) -> None:
        ratio = torch.tensor([2.0, 2.0, -1e4])
        good, bad = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
        found = kto_loss(ratio, torch.tensor(1.0), good, bad, 0.5, 3.0, 4.0)
        assert found.tolist() == pytest.approx([3 * (1 - 0.62246), 4 * 0.62246, 3.0], rel=1e-4)

    def test_a_negative_estimate_of_the_kl_becomes_0(self) -> None:
        weights = torch.tensor([1.0, 3.0])
        assert float(mean_reference_point(torch.tensor([2.0, -1.0]), weights)) == 0.0
        assert float(mean_reference_point(torch.tensor([-2.0, 1.0]), weights)) == pytest.approx(0.25)

    @pytest.mark.parametrize("point", ["mismatched", "zero"])
    def test_before_the_first_update_log_ratios_and_reference_point_are_0(
        self, tokenizer: Any, context: Any, point: str
    ) -> None:
        policy = make_policy("gpt2", tokenizer, dropout=0.5)
        config = CONFIG.model_copy(update={"reference_point": point})
        batch = known(policy, context, config)
        policy.module.train()
        figures, _ = batch_gradients(policy, batch, config, context)
        weights = 1.2 * (1 + 2 + 1) + 0.7 * (1 + 0.5)
        assert figures["loss"] == pytest.approx(weights / 2 / 5.5, rel=1e-5)
        assert [figures[n] for n in ("kl", "margin", "reward_chosen", "reward_rejected")] == pytest.approx(
            [0.0] * 4, abs=1e-4
        )


class TestInvariance:
    @pytest.mark.parametrize("tokens", [1, 50, 10**6])
    @pytest.mark.parametrize("reads", ["labels", "preferences"])
    def test_micro_batches_order_and_pad_id_change_nothing(
        self, policy: CausalLM, reference: CausalLM, context: Any, tokens: int, reads: str
    ) -> None:
        config = CONFIG.model_copy(update={"reads": reads})
        batch = known(reference, context, config)
        first, expected = batch_gradients(policy, batch, config, context)
        policy.pad_id = 77
        config = config.model_copy(update={"micro_batch_tokens": tokens})
        second, found = batch_gradients(policy, batch[::-1], config, context)
        assert second == pytest.approx(first, rel=1e-4, abs=1e-5)
        assert_same_gradients(expected, found, 1e-4)

    def test_a_ranking_is_encoded_once_with_its_weights_as_good_and_bad(self, llama: CausalLM) -> None:
        groups = [from_pairs(group) for group in groups_of(llama)]
        assert [len(g.rows) for g in groups] == [3, 2, 2, 2, 2, 2]
        assert groups[0].good == pytest.approx([2 / 3, 1 / 3, 0])  # best, middle, worst
        assert groups[0].bad == pytest.approx([0, 1 / 3, 2 / 3])
        assert groups[2].good == pytest.approx([0.4, 0.1])  # p .8, weight .5
        assert groups[2].bad == pytest.approx([0.1, 0.4])


class TestMismatched:
    def test_every_prompt_stands_with_a_completion_of_another_prompt(self, llama: CausalLM) -> None:
        texts = [(f"the {a}", f" {b}") for a in ("film", "story", "score", "ending") for b in ("one", "two", "three")]
        rows = [completion_row(llama, *t) for t in texts]
        for seed in range(5):
            found, cut = mismatched_rows(rows, 100, seed)
            assert cut == 0
            used = []
            for row, other in zip(rows, found, strict=True):
                start = list(row.target).index(True)
                assert list(other.ids[:start]) == list(row.ids[:start])
                assert list(other.target) == [False] * start + [True] * (len(other.ids) - start)
                used.append(llama.decode(other.ids[start:]))
            assert sorted(used) == sorted(t for _, t in texts)
        partners = {tuple(tuple(r.ids) for r in mismatched_rows(rows[:1] + rows[3:5], 100, s)[0]) for s in range(9)}
        assert len(partners) == 1  # two prompts: only one way

    def test_completions_that_do_not_fit_behind_the_other_prompt_are_cut_and_counted(self, llama: CausalLM) -> None:
        rows = [completion_row(llama, "I", " like it" * 10), completion_row(llama, "the film" * 8, " x")]
        limit = max(len(r.ids) for r in rows)
        found, cut = mismatched_rows(rows, limit, 0)
        assert cut == 1
        assert [len(r.ids) <= limit for r in found] == [True, True]
        assert all(any(r.target) for r in found)

    def test_one_prompt_alone_is_the_users_mistake(self, llama: CausalLM) -> None:
        rows = [completion_row(llama, "I", " a"), completion_row(llama, "I", " b")]
        with pytest.raises(UserError, match="the same prompt") as caught:
            mismatched_rows(rows, 100, 0)
        assert "reference_point: zero" in str(caught.value.hint)


def test_ranked_share_counts_every_good_against_every_bad_by_weight() -> None:
    rng = random.Random(0)
    rewards = [float(rng.randrange(4)) for _ in range(30)]
    good = [float(rng.randrange(3)) for _ in range(30)]
    bad = [float(rng.randrange(3)) for _ in range(30)]
    total = won = 0.0
    for r, g in zip(rewards, good, strict=True):
        for s, b in zip(rewards, bad, strict=True):
            total += g * b
            won += g * b * (1.0 if r > s else 0.5 if r == s else 0.0)
    tensors = [torch.tensor(x) for x in (rewards, good, bad)]
    assert ranked_share(*tensors) == pytest.approx(won / total)
    assert ranked_share(tensors[0], tensors[1], torch.zeros(30)) != ranked_share(*tensors)  # NaN


def as_labels(pairs: list[Any]) -> list[LabelledCompletion]:
    """One side of each pair, good and bad in turn."""
    return [label(r.prompt, r.chosen if n % 2 else r.rejected, bool(n % 2)) for n, r in enumerate(pairs)]


class TestFit:
    def fit(self, policy: Any, context: Any, folder: Path, data: Any, heldout: Any, **options: Any) -> dict[str, Any]:
        return KTO(KTOConfig(**options)).fit(fit_task(policy, context, data, heldout, folder))

    @pytest.mark.parametrize("reads", ["labels", "preferences"])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_learns_preferences_on_prompts_it_has_not_seen(
        self, tokenizer: Any, context: Any, tmp_path: Path, reads: str, seed: int
    ) -> None:
        policy = make_policy("llama", tokenizer, seed=seed, spread=0.1)
        train, heldout = likes_warm(64, seed), likes_warm(40, 100 + seed)
        make = as_labels if reads == "labels" else list
        options = {"reads": reads, "lr": 1e-3, "epochs": 4, "batch_size": 16, "log_every": 1}
        summary = self.fit(policy, context, tmp_path, make(train), make(heldout), **options)
        assert summary["accuracy_before"] == 0.5
        assert summary["margin_before"] == 0.0
        assert summary["accuracy"] > 0.85
        assert summary["margin"] > 0
        assert summary["good"] == summary["bad"] == (32 if reads == "labels" else 64)
        assert ("accuracy_longest_baseline" in summary) == (reads == "preferences")
        first = context.trackers[0].rows[0][1]
        assert [first["kl"], first["margin"]] == pytest.approx([0, 0], abs=1e-5)
        assert first["loss"] == pytest.approx(0.5, abs=1e-5)
        assert {"heldout_accuracy", "heldout_margin"} <= context.trackers[0].rows[-1][1].keys()
        assert (tmp_path / "model" / "model.safetensors").is_file()

    def test_batches_of_one_class_do_not_spoil_the_metrics(self, llama: CausalLM, context: Any, tmp_path: Path) -> None:
        self.fit(llama, context, tmp_path, LABELS, None, batch_size=1, log_every=5)
        row = context.trackers[0].rows[-1][1]
        assert row["reward_chosen"] == row["reward_chosen"]
        assert row["reward_rejected"] == row["reward_rejected"]

    def test_long_rows_are_dropped_and_counted(self, llama: CausalLM, context: Any, tmp_path: Path) -> None:
        long = label("p", " long" * 40, True)
        summary = self.fit(llama, context, tmp_path, [*LABELS, long], [long, *LABELS], max_length=60)
        assert (summary["labels"], summary["dropped_too_long"]) == (5, 1)
        assert (summary["heldout_labels"], summary["heldout_dropped_too_long"]) == (5, 1)
        assert (summary["good"], summary["bad"]) == (4.0, 1.5)
        with pytest.raises(UserError, match=r"data.jsonl:6: \d+ tokens are more than max_length 60"):
            self.fit(llama, context, tmp_path, [*LABELS, long], None, max_length=60, too_long="error")
        with pytest.raises(UserError, match="all 1 rows are longer than max_length 60"):
            self.fit(llama, context, tmp_path, [long], None, max_length=60)

    def test_bad_input_is_the_users_mistake(self, llama: CausalLM, context: Any, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="there is no labelled completion"):
            self.fit(llama, context, tmp_path, [], None)
        with pytest.raises(UserError, match="there is no preference pair"):
            self.fit(llama, context, tmp_path, [], None, reads="preferences")
        silent = [label("a", "b", True, 0.0), label("c", "d", False, 0.0)]
        with pytest.raises(UserError, match="every completion of a batch has weight 0"):
            self.fit(llama, context, tmp_path, silent, None)
        beyond = [*LABELS, label("p", " long" * 60, True)]
        with pytest.raises(UserError, match=r"the longest row has \d+ tokens and the model 128 positions"):
            self.fit(llama, context, tmp_path, beyond, None, too_long="error")
        assert self.fit(llama, context, tmp_path, beyond, None)["dropped_too_long"] == 1
        long = pair("p", " long" * 40, " y")
        with pytest.raises(UserError, match="no pair fits max_length 60"):
            self.fit(llama, context, tmp_path, [long], None, reads="preferences", max_length=60)

    def test_reads_the_part_that_it_is_told_to(self) -> None:
        assert KTO(KTOConfig()).reads == "labels"
        assert KTO(KTOConfig(reads="preferences")).reads == "preferences"
