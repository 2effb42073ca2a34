"""Log-probs and values of sampled completions, without gradient, in micro-batches."""

import torch
from torch import Tensor

from alignkit.batches import Rollout, TokenBatch, scatter
from alignkit.ops import Ops
from alignkit.protocols import Critic, Policy
from alignkit.training.batching import micro_batches


@torch.no_grad()
def rollout_logprobs(policy: Policy, rollout: Rollout, ops: Ops, max_tokens: int) -> Tensor:
    """log pi(token) at the rollout's sampling temperature, [B, T] on the CPU, zero behind the end."""
    policy.module.eval()
    rows = rollout.rows()
    mask_BT = rollout.mask_BT
    out_BT = torch.zeros(mask_BT.shape)
    for indices in micro_batches([len(r.ids) for r in rows], max_tokens):
        batch = TokenBatch.from_rows([rows[i] for i in indices], policy.pad_id, policy.device)
        h_NH, head = policy.hidden(batch)
        logp_N, _ = ops.linear_logprob(h_NH, head, batch.targets_N, rollout.temperature)
        out_BT[indices] = scatter(logp_N.cpu(), mask_BT[indices])
    return out_BT


@torch.no_grad()
def rollout_values(critic: Critic, rollout: Rollout, pad_id: int, device: torch.device, max_tokens: int) -> Tensor:
    """V of the state before each completion token, [B, T] on the CPU, zero behind the end."""
    critic.module.eval()
    rows = rollout.rows()
    mask_BT = rollout.mask_BT
    out_BT = torch.zeros(mask_BT.shape)
    for indices in micro_batches([len(r.ids) for r in rows], max_tokens):
        batch = TokenBatch.from_rows([rows[i] for i in indices], pad_id, device)
        out_BT[indices] = scatter(critic.values(batch).cpu(), mask_BT[indices])
    return out_BT
