"""Bradley-Terry reward model: -w log sigmoid(r_chosen - r_rejected - m) over all pairs of a ranking at once."""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Row, TokenBatch
from alignkit.context import BuildContext, StepContext
from alignkit.errors import UserError
from alignkit.modeling.backbone import hidden_states
from alignkit.modeling.scorer import SequenceScorer
from alignkit.modeling.sharding import save_model
from alignkit.ops import Ops
from alignkit.preflight import DataView, Finding, optimizer_findings, row_findings
from alignkit.processes import summed_figures
from alignkit.protocols import FitTask
from alignkit.records import Content
from alignkit.training.backward import accumulate_gradients
from alignkit.training.batching import longest_kept, shared
from alignkit.training.keeping import Keeper, Measurement, heldout_evaluation
from alignkit.training.loop import train_steps
from alignkit.training.nonfinite import texts_of
from alignkit.training.pairs import (
    Group,
    Grouped,
    PairColumns,
    decided,
    flatten,
    load_pairs,
    longest_baseline,
    micro_groups,
    points,
    total_weight,
)
from alignkit_plugins.optim_reward_model.config import RewardModelConfig

logger = logging.getLogger("alignkit")


class RewardModelStage:
    """Satisfies `alignkit.protocols.DataStage`."""

    reads = "preferences"
    makes = "reward_model"

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config

    def shares_work(self, context: BuildContext) -> bool:
        """Passes are divided."""
        return True

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """The options of the optimizer, before it runs."""
        return optimizer_findings(self.config)

    def examine_data(self, view: DataView) -> Iterable[Finding]:
        """Rows as the model reads them."""
        config = self.config
        most = longest_kept(config.max_length, config.too_long, view.max_positions)
        return row_findings(view, most, config.too_long)

    def fit(self, task: FitTask) -> dict[str, Any]:
        """Train and save; accuracy is measured on held-out prompts beside the longest-answer baseline."""
        if task.model_path is None:
            raise UserError("reward_model starts from a language model", where="policy", hint="set policy: '@sft'")
        context = task.context
        torch.manual_seed(context.seed)
        scorer = SequenceScorer.load(task.model_path, context.device, new_head=True, overrides=self.config.overrides)
        scorer.init_head(torch.Generator().manual_seed(context.seed))
        positions = getattr(scorer.module.config, "max_position_embeddings", None)
        data = load_pairs(task, lambda *texts: scorer_row(scorer, *texts), self.config, positions)
        groups = data.train.groups
        summary: dict[str, Any] = data.counts()

        def accumulate(indices: Sequence[int]) -> dict[str, float]:
            loss, accuracy = accumulate_pair_loss(scorer, [groups[i] for i in indices], self.config, context.ops)
            return {"loss": loss, "accuracy": accuracy}

        heldout = data.heldout if data.heldout is not None and data.heldout.groups else None

        def measure() -> dict[str, float]:
            assert heldout is not None
            return heldout_figures(scorer, heldout.groups, self.config, context.ops)

        measured = Measurement(measure)
        evaluate = heldout_evaluation(
            scorer.module, measured, heldout is not None, self.config, f"step {context.step_id}"
        )
        keeper = Keeper(self.config.keep_best, self.config.keep_every, partial(save_model, scorer), context)
        steps = train_steps(
            scorer.module, len(groups), self.config, context, accumulate, evaluate=evaluate, keeper=keeper,
            describe=lambda i: texts_of(scorer.encoder.decode, groups[i].rows),
        )  # fmt: skip
        save_model(scorer, context.folder / "model")
        summary |= keeper.summary()
        if heldout is not None:
            figures = measured.last()
            summary["accuracy"], summary["loss"] = figures["heldout_accuracy"], figures["heldout_loss"]
            summary["accuracy_longest_baseline"] = longest_baseline(heldout.pairs)
            if evaluate is None:  # else the last measurement has been logged
                context.log(steps, figures)
            summary |= drift(scorer, task, heldout)
        summary["train_accuracy"] = pair_accuracy(scorer, groups[:2000])
        return summary


def drift(scorer: SequenceScorer, task: FitTask, heldout: Grouped) -> dict[str, float]:
    """How the model of the round before does on this round's held-out pairs, and how alike the two order their texts.

    `accuracy_of_last_round` far below `accuracy`: the policy has moved to texts that the older model cannot judge.
    Empty in the first round.
    """
    before = task.context.previous_folder
    if before is None or not (before / "model").is_dir():
        return {}
    older = SequenceScorer.load(str(before / "model"), task.context.device)
    if older.encoder.tokenizer_id != scorer.encoder.tokenizer_id:
        logger.info("the reward model of the round before has another tokenizer: drift is not measured")
        return {}
    rows, _ = flatten(heldout.groups)
    ids = [row.ids for row in rows]
    new_B, old_B = scorer.score_rows(ids), older.score_rows(ids)
    figures = {"accuracy_of_last_round": pair_accuracy(older, heldout.groups)}
    if len(ids) > 1:
        from scipy.stats import spearmanr  # slow to import, and looking at the stage does without

        figures["rank_correlation_with_last_round"] = float(spearmanr(new_B.numpy(), old_B.numpy()).statistic)
    return figures


def scorer_row(scorer: SequenceScorer, prompt: Content, completion: Content) -> Row:
    """A text as the scorer reads it; it is scored as a whole and no token is a target."""
    ids = scorer.row(prompt, completion)
    return Row(ids, [False] * len(ids))


def accumulate_pair_loss(
    scorer: SequenceScorer, groups: Sequence[Group], config: RewardModelConfig, ops: Ops
) -> tuple[float, float]:
    """Backward of the weighted mean pair loss of a batch of groups; returns (loss, accuracy).

    The denominator is the sum of all weights in the batch, so micro-batches change nothing. A group is never split
    over two forward passes.
    """
    denominator = total_weight(groups)
    total, right, count = 0.0, 0.0, 0
    for indices, counts in shared(micro_groups(groups, config.micro_batch_tokens)):
        rows, pairs = flatten([groups[i] for i in indices])
        scores_B = training_scores(scorer, rows, config.dropout)
        columns = PairColumns.of(pairs, scores_B.device)
        loss = pair_loss(scores_B, columns, config, ops) * counts / denominator
        accumulate_gradients(loss)
        total += float(loss.detach())
        points_D = right_order(scores_B.detach(), columns)
        right += counts * float(points_D.sum())
        count += counts * len(points_D)
    sums = summed_figures({"loss": total, "right": right, "count": float(count)})
    return sums["loss"], sums["right"] / sums["count"] if sums["count"] else float("nan")


def pair_loss(scores_B: Tensor, pairs: PairColumns, config: RewardModelConfig, ops: Ops) -> Tensor:
    """Sum of the pairs' weighted losses, centering included."""
    a_P, b_P, p_P, margin_P, weight_P = pairs
    loss: Tensor = ops.pairwise_loss(scores_B[a_P], scores_B[b_P], p_P, margin_P, weight_P).sum()
    if config.centering:
        sums_P = scores_B[a_P] + scores_B[b_P]
        loss = loss + config.centering * (weight_P * sums_P.square()).sum()
    return loss


def training_scores(scorer: SequenceScorer, rows: Sequence[Row], dropout: float) -> Tensor:
    """Scores with gradient, [B]; `dropout` acts on the hidden state that the head reads."""
    batch = TokenBatch.from_rows(rows, scorer.encoder.pad_id, scorer.device)
    if not dropout:
        return scorer.last_token_scores(batch)
    h_BTH = hidden_states(scorer.module, batch)
    last_B = batch.mask_BT.long().sum(-1) - 1
    h_BH = torch.nn.functional.dropout(h_BTH[torch.arange(len(rows), device=h_BTH.device), last_B], dropout)
    return scorer.head(h_BH)


def right_order(scores_B: Tensor, pairs: PairColumns) -> Tensor:
    """For each pair that is no tie: 1 if the preferred side scores higher, 1/2 if both are equal, else 0; [D]."""
    better_D, worse_D = decided(pairs)
    return points(scores_B[better_D] - scores_B[worse_D])


def heldout_figures(
    scorer: SequenceScorer, groups: Sequence[Group], config: RewardModelConfig, ops: Ops
) -> dict[str, float]:
    """Accuracy, and the loss that training would have on these groups as one batch, without dropout."""
    rows, pairs = flatten(groups)
    scores_B = scorer.score_rows([row.ids for row in rows])
    columns = PairColumns.of(pairs, scores_B.device)
    points_D = right_order(scores_B, columns)
    weight = sum(pair[4] for pair in pairs)
    loss = float(pair_loss(scores_B, columns, config, ops)) / weight if weight else float("nan")
    return {"heldout_accuracy": _mean(points_D), "heldout_loss": loss}


def pair_accuracy(scorer: SequenceScorer, groups: Sequence[Group]) -> float:
    """Share of pairs whose preferred side scores higher; equal scores count half, tied pairs (p = 0.5) are left out."""
    rows, pairs = flatten(groups)
    scores_B = scorer.score_rows([row.ids for row in rows])
    points_D = right_order(scores_B, PairColumns.of(pairs, scores_B.device))
    return _mean(points_D)


def _mean(points_D: Tensor) -> float:
    return float(points_D.mean()) if len(points_D) else float("nan")
