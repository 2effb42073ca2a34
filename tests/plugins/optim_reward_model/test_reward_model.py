"""The reward model's loss is the average over the pairs of a ranking, then over rankings, however it is batched."""

import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.batches import Row
from alignkit.data.store import RecordFile, write_records
from alignkit.errors import UserError
from alignkit.modeling.scorer import SequenceScorer
from alignkit.ops import Ops
from alignkit.protocols import FitTask
from alignkit.records import PreferencePair
from alignkit.training.pairs import Group, longest_baseline, make_groups, micro_groups
from alignkit_plugins.optim_reward_model.config import RewardModelConfig
from alignkit_plugins.optim_reward_model.stage import (
    RewardModelStage,
    accumulate_pair_loss,
    pair_accuracy,
    scorer_row,
)
from helpers.models import assert_same_gradients, gradients, make_policy, make_scorer

TEXTS = [" won me over", " is long and dull", " is warm", " left early with a score", " two", " who like stories"]
PROMPTS = ["the film", "this thriller about two brothers", "I"]


def ranking(prompt: str, texts: list[str], group: str) -> list[PreferencePair]:
    """All pairs of a ranking from best to worst, weight 1/#pairs."""
    n = len(texts) * (len(texts) - 1) // 2
    return [
        PreferencePair(prompt=prompt, chosen=a, rejected=b, weight=1 / n, group=group)
        for i, a in enumerate(texts)
        for b in texts[i + 1 :]
    ]


RANKINGS = [
    ranking(PROMPTS[0], TEXTS[:4], "r1"),
    ranking(PROMPTS[1], TEXTS[2:4], "r2"),
    ranking(PROMPTS[2], TEXTS[1:6], "r3"),
]
PAIRS = [p for r in RANKINGS for p in r]


@pytest.fixture(params=["llama", "gpt2"])
def scorer(request: pytest.FixtureRequest, tmp_path: Path) -> SequenceScorer:
    return make_scorer(tmp_path / "base", request.param)


def groups_of(scorer: SequenceScorer, pairs: list[PreferencePair], max_length: int = 200) -> list[Group]:
    return make_groups(pairs, partial(scorer_row, scorer), max_length, "drop", "x").groups


def silent(*ids: int) -> Row:
    """A row without targets, as the scorer's rows are."""
    return Row(list(ids), [False] * len(ids))


def plain_loss(scorer: SequenceScorer, centering: float = 0.0) -> torch.Tensor:
    """Mean over rankings of the mean over pairs; every text encoded for itself, one row at a time."""

    def score(prompt: Any, text: Any) -> torch.Tensor:
        ids = torch.tensor([scorer.row(prompt, text)])
        return scorer.module.score(scorer.module.base_model(ids).last_hidden_state[0, -1])[0]

    losses = []
    for pairs in RANKINGS:
        terms = []
        for pair in pairs:
            a, b = score(pair.prompt, pair.chosen), score(pair.prompt, pair.rejected)
            terms.append(-torch.log(torch.sigmoid(a - b)) + centering * (a + b) ** 2)
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses).mean()


def batch_gradients(
    scorer: SequenceScorer, groups: list[Group], ops: Ops, losses: list[float] | None = None, **options: Any
) -> dict[str, torch.Tensor]:
    def run() -> None:
        loss, _ = accumulate_pair_loss(scorer, groups, RewardModelConfig(**options), ops)
        if losses is not None:
            losses.append(loss)

    return gradients(scorer.module, run)


class TestLoss:
    @pytest.mark.parametrize("centering", [0.0, 0.01])
    def test_equals_the_plain_average_over_pairs_then_rankings(
        self, scorer: SequenceScorer, context: Any, centering: float
    ) -> None:
        expected: list[float] = []

        def plain() -> None:
            loss = plain_loss(scorer, centering)
            expected.append(float(loss.detach()))
            loss.backward()

        losses: list[float] = []
        ours = batch_gradients(scorer, groups_of(scorer, PAIRS), context.ops, losses, centering=centering)
        assert_same_gradients(gradients(scorer.module, plain), ours)
        assert losses[0] == pytest.approx(expected[0], rel=1e-5)

    @pytest.mark.parametrize("tokens", [1, 60, 10**6])
    def test_does_not_depend_on_micro_batches_or_order(self, scorer: SequenceScorer, context: Any, tokens: int) -> None:
        groups = groups_of(scorer, PAIRS)
        losses: list[float] = []
        whole = batch_gradients(scorer, groups, context.ops, losses, micro_batch_tokens=10**6)
        other = batch_gradients(scorer, groups[::-1], context.ops, losses, micro_batch_tokens=tokens)
        assert_same_gradients(whole, other)
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)

    def test_does_not_depend_on_padding_or_on_the_pad_id(self, scorer: SequenceScorer, context: Any) -> None:
        groups = groups_of(scorer, PAIRS)
        first = batch_gradients(scorer, groups, context.ops)
        scorer.encoder.pad_id = scorer.encoder.end_id
        assert_same_gradients(first, batch_gradients(scorer, groups, context.ops))
        # A long pair of weight 0 pads every other row.
        long = Group([silent(*range(6, 90)), silent(*range(6, 80))], [(0, 1, 1.0, 0.0, 0.0)])
        assert_same_gradients(first, batch_gradients(scorer, [*groups, long], context.ops))

    def test_pairs_of_weight_zero_only_are_reported(self, scorer: SequenceScorer, context: Any) -> None:
        with pytest.raises(UserError, match="weight 0"):
            batch_gradients(scorer, [Group([silent(7, 8), silent(9)], [(0, 1, 1.0, 0.0, 0.0)])], context.ops)

    def test_dropout_on_the_head_is_only_for_training(self, scorer: SequenceScorer, context: Any) -> None:
        groups = groups_of(scorer, PAIRS)
        losses: list[float] = []
        torch.manual_seed(0)
        batch_gradients(scorer, groups, context.ops, losses, dropout=0.5)
        batch_gradients(scorer, groups, context.ops, losses, dropout=0.5)
        assert losses[0] != losses[1]
        assert pair_accuracy(scorer, groups) == pair_accuracy(scorer, groups)


class TestGroups:
    def test_each_text_of_a_ranking_is_encoded_once(self, scorer: SequenceScorer) -> None:
        encoded: list[tuple[Any, Any]] = []

        def encode(prompt: Any, completion: Any) -> Row:
            encoded.append((prompt, completion))
            return scorer_row(scorer, prompt, completion)

        found = make_groups(PAIRS, encode, 200, "drop", "x")
        assert len(encoded) == len(set(encoded)) == 4 + 2 + 5
        assert [len(g.rows) for g in found.groups] == [4, 2, 5]
        assert [len(g.pairs) for g in found.groups] == [6, 1, 10]
        for group, pairs in zip(found.groups, RANKINGS, strict=True):
            for (a, b, *_), pair in zip(group.pairs, pairs, strict=True):
                assert group.rows[a].ids == scorer.row(pair.prompt, pair.chosen)
                assert group.rows[b].ids == scorer.row(pair.prompt, pair.rejected)

    def test_pairs_without_a_group_stand_alone(self, scorer: SequenceScorer) -> None:
        pair = PreferencePair(prompt="a", chosen="b", rejected="c")
        assert [len(g.pairs) for g in groups_of(scorer, [pair, pair])] == [1, 1]
        named = [pair.model_copy(update={"group": name}) for name in ("#3", "2")]
        assert [len(g.pairs) for g in groups_of(scorer, [*named, pair])] == [1, 1, 1]  # whatever others are called

    def test_the_same_answer_to_another_prompt_of_the_group_is_another_text(self, scorer: SequenceScorer) -> None:
        pairs = [PreferencePair(prompt=p, chosen="b", rejected="c", group="g") for p in ("one", "two")]
        assert len(groups_of(scorer, pairs)[0].rows) == 4

    def test_pairs_with_a_long_side_are_dropped_and_counted_and_their_texts_not_scored(
        self, scorer: SequenceScorer
    ) -> None:
        pairs = [*ranking("p", [" a", " b" * 60, " c"], "g"), *ranking("q", [" d" * 70, " e"], "h")]
        encode = partial(scorer_row, scorer)
        found = make_groups(pairs, encode, 40, "drop", "x")
        assert found.dropped == 3
        assert [(len(g.rows), g.pairs) for g in found.groups] == [(2, [(0, 1, 1.0, 0.0, pairs[0].weight)])]
        assert found.groups[0].rows == [encode("p", " a"), encode("p", " c")]
        with pytest.raises(UserError, match=r"x:1: \d+ tokens are more than max_length 40"):
            make_groups(pairs, encode, 40, "error", "x")


def test_micro_batches_of_groups_stay_within_the_padded_budget() -> None:
    generator = random.Random(0)
    sizes = [[generator.randrange(1, 40) for _ in range(generator.randrange(2, 6))] for _ in range(60)]
    groups = [Group([silent(*[7] * n) for n in lengths]) for lengths in sizes]
    groups.append(Group([silent(*[7] * 300)] * 4))  # too large for any budget: goes alone
    found = list(micro_groups(groups, 400))
    assert sorted(i for batch in found for i in batch) == list(range(61))
    for batch in found:
        rows = [row.ids for i in batch for row in groups[i].rows]
        assert len(batch) == 1 or max(map(len, rows)) * len(rows) <= 400
    assert max(map(len, found)) > 2


class FixedScores:
    """Scores by a table of rows, for the accuracy."""

    def __init__(self, function: Callable[[list[int]], float]) -> None:
        self.function = function

    def score_rows(self, rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor([self.function(r) for r in rows])


class TestAccuracy:
    def test_counts_the_preferred_side_equal_scores_half_and_leaves_ties_out(self) -> None:
        rows = [silent(1), silent(2), silent(2), silent(0)]
        pairs = [
            (1, 0, 1.0, 0.0, 1.0),  # right
            (0, 1, 1.0, 0.0, 1.0),  # wrong
            (0, 1, 0.2, 0.0, 1.0),  # the second side is preferred: right
            (1, 2, 1.0, 0.0, 1.0),  # equal scores: half
            (0, 3, 0.5, 0.0, 1.0),  # a tie: left out
        ]
        scorer: Any = FixedScores(lambda r: float(r[0]))
        assert pair_accuracy(scorer, [Group(rows, pairs)]) == pytest.approx(2.5 / 4)
        assert math.isnan(pair_accuracy(scorer, [Group(rows, pairs[-1:])]))

    def test_training_accuracy_treats_ties_and_turned_pairs_alike(self, scorer: SequenceScorer, context: Any) -> None:
        group = groups_of(scorer, PAIRS)[0]
        turned = Group(group.rows, [(b, a, 0.0, m, w) for a, b, _, m, w in group.pairs])
        tied = Group(group.rows, [(a, b, 0.5, m, w) for a, b, _, m, w in group.pairs])
        config = RewardModelConfig()
        _, expected = accumulate_pair_loss(scorer, [group], config, context.ops)
        assert expected == pytest.approx(pair_accuracy(scorer, [group]))
        assert accumulate_pair_loss(scorer, [turned], config, context.ops)[1] == pytest.approx(expected)
        assert accumulate_pair_loss(scorer, [group, tied], config, context.ops)[1] == pytest.approx(expected)

    def test_longest_baseline_counts_characters_equal_lengths_half(self) -> None:
        def pair(chosen: str, rejected: str, p: float = 1.0) -> PreferencePair:
            return PreferencePair(prompt="p", chosen=chosen, rejected=rejected, p=p)

        pairs = [
            pair("long", "s"),
            pair("s", "long"),
            pair("same", "size"),
            pair("s", "long", 0.1),
            pair("a", "bc", 0.5),
        ]
        assert longest_baseline(pairs) == pytest.approx((1 + 0 + 0.5 + 1) / 4)


class TestFit:
    def fit(self, folder: Path, context: Any, pairs: list[PreferencePair], **options: Any) -> dict[str, Any]:
        make_policy("llama").save(folder / "policy")
        write_records(folder / "pairs.jsonl", pairs)
        write_records(folder / "heldout.jsonl", [*pairs[:3], PreferencePair(prompt="p", chosen="x" * 99, rejected="y")])
        data, heldout = (RecordFile(folder / f"{n}.jsonl", PreferencePair) for n in ("pairs", "heldout"))
        task = FitTask(lambda: None, str(folder / "policy"), data, heldout, context)  # type: ignore[arg-type, return-value]
        return RewardModelStage(RewardModelConfig(**options)).fit(task)

    def test_learns_a_ranking_and_saves_a_classifier_for_transformers(self, context: Any, tmp_path: Path) -> None:
        from transformers import AutoModelForSequenceClassification

        summary = self.fit(tmp_path, context, PAIRS, lr=3e-3, epochs=15, max_length=60, schedule="constant")
        assert summary["train_accuracy"] == 1.0
        assert summary["accuracy"] == 1.0
        assert summary["heldout_pairs"] == 3  # the one that is too long counts in neither figure
        assert summary["accuracy_longest_baseline"] == longest_baseline(PAIRS[:3])
        assert (summary["pairs"], summary["groups"], summary["dropped_too_long"]) == (17, 3, 0)
        logged = [row["loss"] for _, row in context.trackers[0].rows if "loss" in row]
        assert logged[-1] < 0.3
        scorer = SequenceScorer.load(str(tmp_path / "model"), torch.device("cpu"))
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
        row = scorer.row(PROMPTS[0], TEXTS[0])
        with torch.no_grad():
            theirs = float(plain.eval()(torch.tensor([row])).logits)
        assert theirs == pytest.approx(float(scorer.score_rows([row])[0]), abs=1e-5)

    def test_the_model_of_the_round_before_is_measured_on_this_rounds_heldout_pairs(
        self, context: Any, tmp_path: Path
    ) -> None:
        options: dict[str, Any] = {"lr": 3e-3, "epochs": 15, "max_length": 60, "schedule": "constant"}
        first = self.fit(tmp_path, context, PAIRS, **options)
        assert "accuracy_of_last_round" not in first
        context.previous_folder, context.folder = context.folder, tmp_path / "second"
        same = self.fit(tmp_path, context, PAIRS, **options)
        assert (same["accuracy_of_last_round"], same["rank_correlation_with_last_round"]) == (1.0, pytest.approx(1.0))
        turned = [p.model_copy(update={"chosen": p.rejected, "rejected": p.chosen}) for p in PAIRS]
        other = self.fit(tmp_path, context, turned, **options)
        assert other["accuracy"] == 1.0
        assert other["accuracy_of_last_round"] == 0.0, "people now want the opposite"
        assert other["rank_correlation_with_last_round"] < -0.5

    def test_rows_longer_than_the_context_are_dropped_or_the_users_mistake(self, context: Any, tmp_path: Path) -> None:
        long = PreferencePair(prompt="p", chosen=" long" * 60, rejected="y")
        with pytest.raises(UserError, match="no pair fits the model's 128 positions: all 1"):
            self.fit(tmp_path, context, [long])
        with pytest.raises(UserError, match=r"the longest row has \d+ tokens and the model 128 positions"):
            self.fit(tmp_path, context, [long], too_long="error")
        summary = self.fit(tmp_path, context, [*PAIRS, long])
        assert (summary["pairs"], summary["dropped_too_long"]) == (len(PAIRS), 1)

    def test_without_a_language_model_to_start_from_it_says_so(self, context: Any) -> None:
        with pytest.raises(UserError, match="starts from a language model"):
            RewardModelStage(RewardModelConfig()).fit(FitTask(None, None, None, None, context))  # type: ignore[arg-type]
