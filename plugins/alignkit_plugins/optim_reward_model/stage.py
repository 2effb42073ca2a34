"""Bradley-Terry reward model: -w log sigmoid(r_chosen - r_rejected - m) over all pairs of a ranking at once."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Row, TokenBatch
from alignkit.data.store import RecordFile
from alignkit.errors import UserError
from alignkit.modeling.backbone import hidden_states
from alignkit.modeling.scorer import SequenceScorer
from alignkit.ops import Ops
from alignkit.protocols import FitTask
from alignkit.records import PreferencePair, plain_text
from alignkit.training.batching import check_positions
from alignkit.training.loop import train_steps
from alignkit_plugins.optim_reward_model.config import RewardModelConfig
from alignkit_plugins.optim_reward_model.groups import Group, Grouped, flatten, make_groups, micro_groups


class RewardModelStage:
    """Satisfies `alignkit.protocols.DataStage`."""

    reads = "preferences"
    makes = "reward_model"

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config

    def fit(self, task: FitTask) -> dict[str, Any]:
        """Train and save; accuracy is measured on held-out prompts beside the longest-answer baseline."""
        if task.model_path is None:
            raise UserError("reward_model starts from a language model", where="policy", hint="set policy: '@sft'")
        context = task.context
        torch.manual_seed(context.seed)
        scorer = SequenceScorer.load(task.model_path, context.device, new_head=True, overrides=self.config.overrides)
        scorer.init_head(torch.Generator().manual_seed(context.seed))
        data = self._groups(scorer, task.data)
        if not data.groups:
            raise UserError("no pair fits max_length", where=task.data.path, hint="raise max_length")
        summary: dict[str, Any] = {
            "pairs": len(data.pairs),
            "groups": len(data.groups),
            "dropped_too_long": data.dropped,
        }
        heldout = self._groups(scorer, task.eval_data) if task.eval_data else None
        everything = [*data.groups, *(heldout.groups if heldout else [])]
        longest = max(len(row) for group in everything for row in group.rows)
        check_positions(longest, getattr(scorer.module.config, "max_position_embeddings", None))

        def accumulate(indices: Sequence[int]) -> dict[str, float]:
            batch = [data.groups[i] for i in indices]
            loss, accuracy = accumulate_pair_loss(scorer, batch, self.config, context.ops)
            return {"loss": loss, "accuracy": accuracy}

        steps = train_steps(scorer.module, len(data.groups), self.config, context, accumulate)
        scorer.save(context.folder / "model")
        if heldout is not None and heldout.groups:
            summary["heldout_pairs"] = len(heldout.pairs)
            summary["heldout_dropped_too_long"] = heldout.dropped
            summary["accuracy"] = pair_accuracy(scorer, heldout.groups)
            summary["accuracy_longest_baseline"] = longest_baseline(heldout.pairs)
            context.log(steps, {"heldout_accuracy": summary["accuracy"]})
        summary["train_accuracy"] = pair_accuracy(scorer, data.groups[:2000])
        return summary

    def _groups(self, scorer: SequenceScorer, pairs: RecordFile[PreferencePair]) -> Grouped:
        return make_groups(pairs, scorer.row, self.config.max_length, self.config.too_long, str(pairs.path))


def accumulate_pair_loss(
    scorer: SequenceScorer, groups: Sequence[Group], config: RewardModelConfig, ops: Ops
) -> tuple[float, float]:
    """Backward of the weighted mean pair loss of a batch of groups; returns (loss, accuracy).

    The denominator is the sum of all weights in the batch, so micro-batches change nothing. A group is never split
    over two forward passes.
    """
    denominator = sum(w for g in groups for *_, w in g.pairs)
    if denominator <= 0:
        raise UserError("every pair of a batch has weight 0", hint="remove pairs without weight")
    total, right, count = 0.0, 0.0, 0
    for indices in micro_groups(groups, config.micro_batch_tokens):
        rows, pairs = flatten([groups[i] for i in indices])
        scores_B = training_scores(scorer, rows, config.dropout)
        a_P, b_P, p_P, margin_P, weight_P = _columns(pairs, scores_B.device)
        loss_P = ops.pairwise_loss(scores_B[a_P], scores_B[b_P], p_P, margin_P, weight_P)
        loss = loss_P.sum() / denominator
        if config.centering:
            sums_P = scores_B[a_P] + scores_B[b_P]
            loss = loss + config.centering * (weight_P * sums_P.square()).sum() / denominator
        loss.backward()
        total += float(loss.detach())
        points = _points(scores_B.detach(), pairs)
        right += sum(points)
        count += len(points)
    return total, right / count if count else float("nan")


def training_scores(scorer: SequenceScorer, rows: Sequence[Sequence[int]], dropout: float) -> Tensor:
    """Scores with gradient, [B]; `dropout` acts on the hidden state that the head reads."""
    batch = TokenBatch.from_rows([Row(r, [False] * len(r)) for r in rows], scorer.encoder.pad_id, scorer.device)
    if not dropout:
        return scorer.last_token_scores(batch)
    h_BTH = hidden_states(scorer.module, batch)
    last_B = batch.mask_BT.long().sum(-1) - 1
    h_BH = torch.nn.functional.dropout(h_BTH[torch.arange(len(rows), device=h_BTH.device), last_B], dropout)
    return scorer.head(h_BH)


def _columns(
    pairs: Sequence[tuple[int, int, float, float, float]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    a, b, p, margin, weight = zip(*pairs, strict=True)
    index = [torch.tensor(column, device=device) for column in (a, b)]
    number = [torch.tensor(column, dtype=torch.float32, device=device) for column in (p, margin, weight)]
    return index[0], index[1], number[0], number[1], number[2]


def _points(scores_B: Tensor, pairs: Sequence[tuple[int, int, float, float, float]]) -> list[float]:
    """For each pair that is decided (p is not 0.5): 1 if the preferred side scores higher, 1/2 if equal, else 0."""
    scores = scores_B.tolist()
    decided = [(a, b) if p > 0.5 else (b, a) for a, b, p, _, _ in pairs if p != 0.5]
    return [0.5 if scores[a] == scores[b] else float(scores[a] > scores[b]) for a, b in decided]


def pair_accuracy(scorer: SequenceScorer, groups: Sequence[Group]) -> float:
    """Share of pairs whose preferred side scores higher; equal scores count half, tied pairs (p = 0.5) are left out."""
    rows, pairs = flatten(groups)
    points = _points(scorer.score_rows(rows), pairs)
    return sum(points) / len(points) if points else float("nan")


def longest_baseline(pairs: Iterable[PreferencePair]) -> float:
    """Accuracy of "the longer answer (in characters) is better" on the same pairs; equal lengths count half."""
    points: list[float] = []
    for pair in pairs:
        if pair.p == 0.5:
            continue
        chosen, rejected = len(plain_text(pair.chosen)), len(plain_text(pair.rejected))
        better, worse = (chosen, rejected) if pair.p > 0.5 else (rejected, chosen)
        points.append(0.5 if better == worse else float(better > worse))
    return sum(points) / len(points) if points else float("nan")
