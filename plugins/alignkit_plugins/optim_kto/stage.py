"""Kahneman-Tversky optimization: make good completions likelier than the reference does, and bad ones less likely.

How much is measured from z0, the KL to the reference. The reference is the policy before the first update; its
log-probs of all completions are computed once. Dropout stays off, so that log-ratios are 0 before the first update.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Row
from alignkit.context import BuildContext, StepContext
from alignkit.errors import UserError
from alignkit.modeling.sharding import save_model
from alignkit.ops import Ops
from alignkit.preflight import DataView, Finding, optimizer_findings, row_findings
from alignkit.processes import summed, summed_figures
from alignkit.protocols import FitTask, Policy
from alignkit.training.backward import accumulate_gradients
from alignkit.training.batching import longest_kept, shared
from alignkit.training.keeping import Keeper, Measurement, heldout_evaluation
from alignkit.training.loop import train_steps
from alignkit.training.nonfinite import texts_of
from alignkit.training.pairs import PairColumns, decided, flatten, longest_baseline, micro_groups, points
from alignkit.training.sequences import all_sequence_logps, completion_row, sequence_logps
from alignkit_plugins.optim_kto.config import KTOConfig
from alignkit_plugins.optim_kto.examples import Examples, LabelGroup, load_examples, mismatched_rows
from alignkit_plugins.optim_kto.losses import kto_loss, mean_reference_point, ranked_share


class Known(NamedTuple):
    """A group, its prompts with completions of other prompts, and the reference's log-probs of both, on the CPU.

    Without a reference point to estimate there are no mismatched rows.
    """

    group: LabelGroup
    ref_logp_B: Tensor
    mismatched: list[Row]
    ref_mismatched_M: Tensor

    @property
    def rows(self) -> list[Row]:
        """The group's completions."""
        return self.group.rows


class KTO:
    """Satisfies `alignkit.protocols.DataStage`."""

    def __init__(self, config: KTOConfig) -> None:
        self.config = config
        self.reads: str = config.reads

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
        """Train and save; figures of the summary are on held-out records, before and after."""
        config, context = self.config, task.context
        policy = task.policy()
        data = load_examples(task, lambda *texts: completion_row(policy, *texts), config, policy.max_positions)
        train, cut = with_reference(policy, data.train, config, context.seed, context.ops)
        heldout = _rows(data.heldout)
        before_R = all_sequence_logps(policy, heldout, context.ops, config.micro_batch_tokens)

        def accumulate(indices: Sequence[int]) -> dict[str, float]:
            return accumulate_labels(policy, [train[i] for i in indices], config, context.ops)

        def measure() -> dict[str, float]:
            logp_R = all_sequence_logps(policy, heldout, context.ops, config.micro_batch_tokens)
            return heldout_figures(data, logp_R, before_R, config.beta)

        measured = Measurement(measure)

        def logged() -> dict[str, float]:
            return {f"heldout_{name}": value for name, value in measured().items()}

        evaluate = heldout_evaluation(policy.module, logged, bool(heldout), config, f"step {context.step_id}")
        keeper = Keeper(config.keep_best, config.keep_every, partial(save_model, policy), context)
        steps = train_steps(
            policy.module, len(train), config, context, accumulate, evaluate=evaluate, keeper=keeper,
            describe=lambda i: texts_of(policy.decode, train[i].group.rows),
        )  # fmt: skip
        save_model(policy, context.folder / "model")
        summary = data.counts | {"steps": steps, "mismatched_cut": cut, **keeper.summary()}
        if heldout:
            first, last = heldout_figures(data, before_R, before_R, config.beta), measured.last()
            summary |= {f"{name}_before": value for name, value in first.items()} | last
            if evaluate is None:  # else the last measurement has been logged
                context.log(steps, {f"heldout_{name}": value for name, value in last.items()})
        if heldout and data.heldout_pairs is not None:
            summary["accuracy_longest_baseline"] = longest_baseline(data.heldout_pairs.pairs)
        return summary


def _rows(groups: Sequence[LabelGroup]) -> list[Row]:
    return [row for group in groups for row in group.rows]


def _weights(groups: Sequence[LabelGroup], device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights as good and as bad of the groups' completions, [B] each."""
    good = [weight for group in groups for weight in group.good]
    bad = [weight for group in groups for weight in group.bad]
    return torch.tensor(good, device=device), torch.tensor(bad, device=device)


def with_reference(
    policy: Policy, groups: Sequence[LabelGroup], config: KTOConfig, seed: int, ops: Ops
) -> tuple[list[Known], int]:
    """Groups with the log-probs that `policy` gives now, and how many mismatched rows were cut."""
    rows = _rows(groups)
    sizes = [len(group.rows) for group in groups]
    parts = torch.split(all_sequence_logps(policy, rows, ops, config.micro_batch_tokens), sizes)
    if config.reference_point == "zero":
        return [Known(g, part, [], torch.zeros(0)) for g, part in zip(groups, parts, strict=True)], 0
    most = min(config.max_length, policy.max_positions or config.max_length)
    others, cut = mismatched_rows(rows, most, seed)
    other_parts = torch.split(all_sequence_logps(policy, others, ops, config.micro_batch_tokens), sizes)
    rest = iter(others)
    found = [
        Known(group, part, list(islice(rest, len(group.rows))), other_part)
        for group, part, other_part in zip(groups, parts, other_parts, strict=True)
    ]
    return found, cut


def batch_reference_point(policy: Policy, batch: Sequence[Known], max_tokens: int, ops: Ops) -> Tensor:
    """z0 of the whole batch, a scalar on the policy's device; a completion counts with its weights in the loss."""
    rows = [row for known in batch for row in known.mismatched]
    if not rows:
        return torch.zeros((), device=policy.device)
    good_B, bad_B = _weights([known.group for known in batch], torch.device("cpu"))
    ratio_M = all_sequence_logps(policy, rows, ops, max_tokens) - torch.cat([k.ref_mismatched_M for k in batch])
    return mean_reference_point(ratio_M, good_B + bad_B).to(policy.device)


def accumulate_labels(policy: Policy, batch: Sequence[Known], config: KTOConfig, ops: Ops) -> dict[str, float]:
    """Backward of the weighted mean loss over the completions of `batch`; returns its figures.

    The denominator is the sum of all weights as good and bad in the batch, before the desirable and undesirable
    weights, so micro-batches change nothing.
    """
    policy.module.eval()
    denominator = sum(sum(known.group.good) + sum(known.group.bad) for known in batch)
    if denominator <= 0:
        raise UserError("every completion of a batch has weight 0", hint="remove records without weight")
    z0 = batch_reference_point(policy, batch, config.micro_batch_tokens, ops)
    total = 0.0
    sizes = [len(known.rows) for known in batch]
    begins = [sum(sizes[:n]) for n in range(len(sizes))]
    reward_B, logp_B = torch.zeros(sum(sizes)), torch.zeros(sum(sizes))
    for indices, counts in shared(micro_groups(batch, config.micro_batch_tokens)):
        chosen = [batch[i] for i in indices]
        groups = [known.group for known in chosen]
        logp_b = sequence_logps(policy, _rows(groups), ops)
        ratio_b = logp_b - torch.cat([known.ref_logp_B for known in chosen]).to(logp_b.device)
        weights = (config.beta, config.desirable_weight, config.undesirable_weight)
        loss_b = kto_loss(ratio_b, z0, *_weights(groups, logp_b.device), *weights)
        loss: Any = loss_b.sum() * counts / denominator
        accumulate_gradients(loss)
        total += float(loss.detach())
        if counts:
            places = [begins[i] + n for i in indices for n in range(sizes[i])]
            reward_B[places] = config.beta * ratio_b.detach().float().cpu()
            logp_B[places] = logp_b.detach().float().cpu()
    weights_B = _weights([known.group for known in batch], torch.device("cpu"))
    figures = label_figures(summed(reward_B), summed(logp_B), *weights_B)
    return summed_figures({"loss": total}) | {"kl": float(z0), **figures}


def label_figures(reward_B: Tensor, logp_B: Tensor, good_B: Tensor, bad_B: Tensor) -> dict[str, float]:
    """`accuracy` (see `ranked_share`), and weighted means: chosen are good completions, rejected bad ones.

    A figure of a class that the batch does not have is NaN.
    """
    means = {}
    for name, values_B in (("reward", reward_B), ("logp", logp_B)):
        for side, weight_B in (("chosen", good_B), ("rejected", bad_B)):
            means[f"{name}_{side}"] = float((values_B * weight_B).sum() / weight_B.sum())
    margin = means["reward_chosen"] - means["reward_rejected"]
    return {"accuracy": ranked_share(reward_B, good_B, bad_B), "margin": margin, **means}


def heldout_figures(data: Examples, logp_R: Tensor, ref_logp_R: Tensor, beta: float) -> dict[str, float]:
    """Accuracy and margin on the held-out records: of their pairs, or of all good x bad combinations of labels."""
    reward_R = beta * (logp_R - ref_logp_R)
    if data.heldout_pairs is None:
        figures = label_figures(reward_R, logp_R, *_weights(data.heldout, torch.device("cpu")))
        return {name: figures[name] for name in ("accuracy", "margin")}
    _, pairs = flatten(data.heldout_pairs.groups)
    better_D, worse_D = decided(PairColumns.of(pairs, reward_R.device))
    margin_D = reward_R[better_D] - reward_R[worse_D]
    return {"accuracy": float(points(margin_D).mean()), "margin": float(margin_D.mean())}
