"""Log-probs of whole completions, the stop token included."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alignkit.answers import checked_hidden
from alignkit.batches import Row, TokenBatch, scatter
from alignkit.ops import Ops
from alignkit.processes import summed
from alignkit.protocols import Policy
from alignkit.records import Content
from alignkit.training.batching import micro_batches, shared


def completion_row(policy: Policy, prompt: Content, completion: Content) -> Row:
    """Prompt and completion as a row, targets on the completion and its stop token."""
    prompt_ids = policy.encode_prompt(prompt)
    completion_ids = policy.encode_completion(prompt, completion)
    return Row(prompt_ids + completion_ids, [False] * len(prompt_ids) + [True] * len(completion_ids))


def sequence_logps(policy: Policy, rows: Sequence[Row], ops: Ops) -> Tensor:
    """log pi(completion | prompt) of each row, the sum over its target tokens, [B]; one forward pass."""
    batch = TokenBatch.from_rows(rows, policy.pad_id, policy.device)
    h_NH, head = checked_hidden(policy, batch)
    logp_N, _ = ops.linear_logprob(h_NH, head, batch.targets_N)
    return scatter(logp_N, batch.target_BT).sum(-1)


@torch.no_grad()
def all_sequence_logps(policy: Policy, rows: Sequence[Row], ops: Ops, max_tokens: int) -> Tensor:
    """As `sequence_logps` for any number of rows, without gradient and dropout, [B] on the CPU."""
    policy.module.eval()
    logp_B = torch.zeros(len(rows))
    for indices, counts in shared(micro_batches([len(r.ids) for r in rows], max_tokens)):
        logp_b = sequence_logps(policy, [rows[i] for i in indices], ops).float().cpu()
        if counts:
            logp_B[indices] = logp_b
    return summed(logp_B)


def target_counts(rows: Sequence[Row], device: torch.device) -> Tensor:
    """Number of target tokens of each row, [B], float32."""
    return torch.tensor([float(sum(r.target)) for r in rows], device=device)
