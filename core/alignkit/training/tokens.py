"""The loop behind `pretrain` and `sft`: maximum likelihood of the target tokens."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch

from alignkit.answers import checked_hidden
from alignkit.batches import Row, TokenBatch
from alignkit.context import StepContext
from alignkit.errors import UserError
from alignkit.modeling.sharding import save_model
from alignkit.processes import summed_figures
from alignkit.protocols import Policy
from alignkit.training.backward import accumulate_gradients
from alignkit.training.batching import check_positions, micro_batches, shared
from alignkit.training.config import DataTrainingConfig
from alignkit.training.keeping import Keeper, Measurement, heldout_evaluation
from alignkit.training.loop import train_steps
from alignkit.training.nonfinite import texts_of


def fit_tokens(
    policy: Policy,
    rows: Sequence[Row],
    eval_rows: Sequence[Row],
    config: DataTrainingConfig,
    context: StepContext,
) -> dict[str, Any]:
    """Train `policy` on the target tokens of `rows`; returns final losses (nats per token), counts, and what was kept.

    The loss of a step is the sum over all its target tokens divided by their number, whatever the micro-batches are.
    """
    if not any(any(r.target) for r in rows):
        raise UserError("no row has a token to train on", where=f"step {context.step_id}", hint="raise max_length")
    longest = max(len(r.ids) if r.positions is None else max(r.positions) + 1 for r in chain(rows, eval_rows))
    check_positions(longest, policy.max_positions)
    totals = {"tokens": 0.0}

    def accumulate(indices: Sequence[int]) -> dict[str, float]:
        loss, count = accumulate_token_loss(policy, [rows[i] for i in indices], config.micro_batch_tokens, context)
        totals["tokens"] += count
        return {"loss": loss}

    heldout = Measurement(lambda: {"heldout_loss": token_loss(policy, eval_rows, config, context)})
    evaluate = heldout_evaluation(policy.module, heldout, bool(eval_rows), config, f"step {context.step_id}")
    keeper = Keeper(config.keep_best, config.keep_every, partial(save_model, policy), context)
    total = train_steps(
        policy.module, len(rows), config, context, accumulate, totals=totals, evaluate=evaluate, keeper=keeper,
        describe=lambda i: texts_of(policy.decode, [rows[i]]),
    )  # fmt: skip
    result = {**totals, "steps": float(total), "loss": token_loss(policy, rows[:512], config, context)}
    if eval_rows:
        result |= heldout.last()
        if evaluate is None:  # else the last measurement has been logged
            context.log(total, {"heldout_loss": result["heldout_loss"]})
    return result | keeper.summary()


def accumulate_token_loss(
    policy: Policy, rows: Sequence[Row], max_tokens: int, context: StepContext
) -> tuple[float, int]:
    """Backward of the mean negative log-likelihood over all target tokens of `rows`; returns (loss, tokens)."""
    count = sum(sum(r.target) for r in rows)
    if count == 0:
        raise UserError("a batch has no token to train on", where=f"step {context.step_id}", hint="raise max_length")
    total = 0.0
    rows = [row for row in rows if any(row.target)]
    for indices, counts in shared(micro_batches([len(r.ids) for r in rows], max_tokens)):
        batch = TokenBatch.from_rows([rows[i] for i in indices], policy.pad_id, policy.device)
        h_NH, head = checked_hidden(policy, batch)
        one_N = torch.ones(batch.tokens, device=policy.device)
        # with advantage 1 and no older policy the policy's loss is the cross-entropy
        weights_N = one_N * counts / count
        loss, _ = context.ops.fused_linear_policy_loss(h_NH, head, batch.targets_N, one_N, weights_N)
        accumulate_gradients(loss)
        total += float(loss.detach())
    return summed_figures({"loss": total})["loss"], count


def token_loss(policy: Policy, rows: Sequence[Row], config: DataTrainingConfig, context: StepContext) -> float:
    """Mean negative log-likelihood per target token, without gradient."""
    policy.module.eval()
    rows = [row for row in rows if any(row.target)]
    total, count = 0.0, sum(sum(row.target) for row in rows)
    with torch.no_grad():
        for indices, counts in shared(micro_batches([len(r.ids) for r in rows], config.micro_batch_tokens)):
            batch = TokenBatch.from_rows([rows[i] for i in indices], policy.pad_id, policy.device)
            h_NH, head = checked_hidden(policy, batch)
            logp_N, _ = context.ops.linear_logprob(h_NH, head, batch.targets_N)
            total -= counts * float(logp_N.sum())
    return summed_figures({"loss": total})["loss"] / max(1, count)
