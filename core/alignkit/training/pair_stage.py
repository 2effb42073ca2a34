"""The stage behind `dpo` and `orpo`: learns from preference pairs, without a reward model and without sampling.

The reference of an objective is the policy before the first update: its log-probs of all texts are computed once, so
that no second model is held in memory. Dropout stays off, or the log-ratios would not be 0 before the first update. A
batch's loss is a sum over pairs divided by the sum of their weights, whatever the micro-batches are.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from alignkit.batches import Row
from alignkit.context import BuildContext, StepContext
from alignkit.modeling.sharding import save_model
from alignkit.ops import Ops
from alignkit.preflight import DataView, Finding, optimizer_findings, row_findings
from alignkit.processes import summed_figures
from alignkit.protocols import FitTask, Policy
from alignkit.training.backward import accumulate_gradients
from alignkit.training.batching import longest_kept, shared
from alignkit.training.config import PairTrainingConfig
from alignkit.training.keeping import Keeper, Measurement, heldout_evaluation
from alignkit.training.loop import train_steps
from alignkit.training.nonfinite import texts_of
from alignkit.training.pairs import (
    Group,
    IndexPair,
    PairColumns,
    decided,
    flatten,
    load_pairs,
    longest_baseline,
    micro_groups,
    points,
    total_weight,
)
from alignkit.training.sequences import all_sequence_logps, completion_row, sequence_logps, target_counts

# Groups on which the training figures of the summary are measured.
MEASURED = 2000


class PairObjective(Protocol):
    """The heart of a stage that learns from pairs."""

    needs_reference: bool

    def __call__(
        self, logp_B: Tensor, ref_logp_B: Tensor, length_B: Tensor, pairs: PairColumns, ops: Ops
    ) -> tuple[Tensor, Tensor]:
        """Loss of each pair, weight included, [P], and the implicit reward of each text, [B].

        `logp_B` are sums over the `length_B` tokens of each completion; `ref_logp_B` is 0 if `needs_reference` is
        False.
        """
        ...


class Known(NamedTuple):
    """A group with the reference's log-probs of its texts, [B] on the CPU."""

    group: Group
    ref_logp_B: Tensor

    @property
    def rows(self) -> list[Row]:
        """The group's texts."""
        return self.group.rows


class PairTraining:
    """Satisfies `alignkit.protocols.DataStage` for any objective on preference pairs."""

    reads = "preferences"

    def __init__(self, config: PairTrainingConfig, objective: PairObjective) -> None:
        self.config = config
        self.objective = objective

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
        """Train and save; figures of the summary are on held-out pairs, before and after."""
        config, context, objective = self.config, task.context, self.objective
        policy = task.policy()
        data = load_pairs(task, lambda *texts: completion_row(policy, *texts), config, policy.max_positions)
        tokens, ops = config.micro_batch_tokens, context.ops
        train = with_reference(policy, data.train.groups, objective, tokens, ops)
        heldout = data.heldout if data.heldout and data.heldout.groups else None
        before = Measured.of(policy, heldout.groups, tokens, ops) if heldout else None

        def accumulate(indices: Sequence[int]) -> dict[str, float]:
            return accumulate_pairs(policy, [train[i] for i in indices], objective, tokens, ops)

        def measure() -> dict[str, float]:
            assert heldout is not None
            assert before is not None
            after = Measured.of(policy, heldout.groups, tokens, ops)
            return compared(objective, before, after, policy.device, ops)

        def logged(figures: Mapping[str, float]) -> dict[str, float]:
            return {f"heldout_{name}": figures[name] for name in ("loss", "accuracy", "margin")}

        measured, where = Measurement(measure), f"step {context.step_id}"
        evaluate = heldout_evaluation(policy.module, lambda: logged(measured()), heldout is not None, config, where)
        keeper = Keeper(config.keep_best, config.keep_every, partial(save_model, policy), context)
        steps = train_steps(
            policy.module, len(train), config, context, accumulate, evaluate=evaluate, keeper=keeper,
            describe=lambda i: texts_of(policy.decode, train[i].rows),
        )  # fmt: skip
        save_model(policy, context.folder / "model")
        summary: dict[str, Any] = data.counts() | {"steps": steps, **keeper.summary()}
        if heldout is not None:
            summary |= measured.last()
            summary["accuracy_longest_baseline"] = longest_baseline(heldout.pairs)
            if evaluate is None:  # else the last measurement has been logged
                context.log(steps, logged(summary))
        first = train[:MEASURED]
        end = Measured.of(policy, [known.group for known in first], tokens, ops)
        reference_B = torch.cat([known.ref_logp_B for known in first])
        summary["train_accuracy"] = end.figures(objective, reference_B, policy.device, ops)["accuracy"]
        return summary


def with_reference(
    policy: Policy, groups: Sequence[Group], objective: PairObjective, max_tokens: int, ops: Ops
) -> list[Known]:
    """Groups with the log-probs that `policy` gives now; zeros, without a forward pass, if nobody asks for them."""
    rows = [row for group in groups for row in group.rows]
    needed = objective.needs_reference
    logp_R = all_sequence_logps(policy, rows, ops, max_tokens) if needed else torch.zeros(len(rows))
    parts = torch.split(logp_R, [len(group.rows) for group in groups])
    return [Known(group, part) for group, part in zip(groups, parts, strict=True)]


def accumulate_pairs(
    policy: Policy, batch: Sequence[Known], objective: PairObjective, max_tokens: int, ops: Ops
) -> dict[str, float]:
    """Backward of the weighted mean loss over the pairs of `batch`; returns its figures (see `pair_sums`).

    The denominator is the sum of all weights in the batch. A group is never split over two forward passes.
    """
    policy.module.eval()
    denominator = total_weight([known.group for known in batch])
    sums: dict[str, float] = defaultdict(float)
    for indices, counts in shared(micro_groups(batch, max_tokens)):
        chosen = [batch[i] for i in indices]
        rows, pairs = flatten([known.group for known in chosen])
        logp_B = sequence_logps(policy, rows, ops)
        reference_B = torch.cat([known.ref_logp_B for known in chosen])
        loss, figures = _apply(objective, logp_B, reference_B, rows, pairs, ops)
        accumulate_gradients(loss * counts / denominator)
        for name, value in figures.items():
            sums[name] += counts * value
    return _means(summed_figures(sums), denominator)


class Measured(NamedTuple):
    """Groups in one list with log-probs that a policy gave them, [R] on the CPU."""

    rows: list[Row]
    pairs: list[IndexPair]
    logp_R: Tensor

    @classmethod
    def of(cls, policy: Policy, groups: Sequence[Group], max_tokens: int, ops: Ops) -> "Measured":
        """Compute the log-probs, without gradient."""
        rows, pairs = flatten(groups)
        return cls(rows, pairs, all_sequence_logps(policy, rows, ops, max_tokens))

    @torch.no_grad()
    def figures(self, objective: PairObjective, ref_logp_R: Tensor, device: torch.device, ops: Ops) -> dict[str, float]:
        """Loss and means over pairs against the reference's log-probs; NaN for pairs without weight."""
        weight = sum(pair[4] for pair in self.pairs)
        _, sums = _apply(objective, self.logp_R.to(device), ref_logp_R, self.rows, self.pairs, ops)
        return _means(sums, weight)


def compared(
    objective: PairObjective, before: Measured, after: Measured, device: torch.device, ops: Ops
) -> dict[str, float]:
    """Entries of the summary. `before` is the reference, so its log-ratios are 0 exactly."""
    reference_R = before.logp_R if objective.needs_reference else torch.zeros_like(before.logp_R)
    old, new = (measured.figures(objective, reference_R, device, ops) for measured in (before, after))
    found: dict[str, float] = {}
    for name in ("accuracy", "logp_accuracy", "loss", "margin"):
        found |= {f"{name}_before": old[name], name: new[name]}
    return found


def _apply(
    objective: PairObjective,
    logp_B: Tensor,
    ref_logp_B: Tensor,
    rows: Sequence[Row],
    pairs: Sequence[IndexPair],
    ops: Ops,
) -> tuple[Tensor, dict[str, float]]:
    """Sum of the pairs' losses, with gradient, and sums of their figures."""
    columns = PairColumns.of(pairs, logp_B.device)
    length_B = target_counts(rows, logp_B.device)
    loss_P, reward_B = objective(logp_B, ref_logp_B.to(logp_B.device), length_B, columns, ops)
    loss = loss_P.sum()
    return loss, pair_sums(reward_B.detach(), logp_B.detach(), columns) | {"loss": float(loss.detach())}


def pair_sums(reward_B: Tensor, logp_B: Tensor, pairs: PairColumns) -> dict[str, float]:
    """Sums over the pairs that are no ties, and their `count`; of those with p < 0.5 `chosen` is the rejected side.

    `accuracy`: the preferred side has the higher implicit reward (equal: half); `logp_accuracy`: the higher log-prob;
    `margin`: difference of the rewards.
    """
    better_D, worse_D = decided(pairs)
    columns = {
        "accuracy": points(reward_B[better_D] - reward_B[worse_D]),
        "logp_accuracy": points(logp_B[better_D] - logp_B[worse_D]),
        "margin": reward_B[better_D] - reward_B[worse_D],
        "reward_chosen": reward_B[better_D],
        "reward_rejected": reward_B[worse_D],
        "logp_chosen": logp_B[better_D],
        "logp_rejected": logp_B[worse_D],
    }
    sums = torch.stack([column.sum() for column in columns.values()]).tolist()
    return dict(zip(columns, sums, strict=True)) | {"count": float(len(better_D))}


def _means(sums: Mapping[str, float], weight: float) -> dict[str, float]:
    """The loss per weight, all other figures per decided pair (NaN if there is none)."""
    count = sums["count"]
    means = {name: value / count if count else float("nan") for name, value in sums.items() if name != "count"}
    return means | {"loss": sums["loss"] / weight if weight else float("nan")}
