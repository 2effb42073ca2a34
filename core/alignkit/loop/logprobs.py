"""Log-probs and values of sampled completions, without gradient, in micro-batches."""

import torch
from torch import Tensor

from alignkit.answers import checked_hidden
from alignkit.batches import Rollout, TokenBatch, scatter
from alignkit.ops import Ops
from alignkit.processes import summed
from alignkit.protocols import Critic, Policy
from alignkit.training.batching import micro_batches, shared


@torch.no_grad()
def rollout_logprobs(policy: Policy, rollout: Rollout, ops: Ops, max_tokens: int) -> Tensor:
    """log pi(token) of the distribution sampled from, [B, T] on the CPU, zero behind the end.

    At the sampling temperature and, where top-k or top-p left ids out, among those that were kept.
    """
    policy.module.eval()
    rows = rollout.rows()
    mask_BT = rollout.mask_BT
    out_BT = torch.zeros(mask_BT.shape)
    for indices, counts in shared(micro_batches([len(r.ids) for r in rows], max_tokens)):
        batch = TokenBatch.from_rows([rows[i] for i in indices], policy.pad_id, policy.device)
        h_NH, head = checked_hidden(policy, batch)
        kept_NK = rollout.kept(indices, policy.device)
        logp_N, _ = ops.linear_logprob(h_NH, head, batch.targets_N, rollout.temperature, kept_NK=kept_NK)
        if counts:
            out_BT[indices] = scatter(logp_N.cpu(), mask_BT[indices])
    return summed(out_BT)


@torch.no_grad()
def rollout_kl(policy: Policy, reference: Policy, rollout: Rollout, ops: Ops, max_tokens: int) -> Tensor:
    """Full-distribution KL(pi || pi_ref) before each completion token, [B, T] on the CPU, zero behind the end."""
    policy.module.eval()
    reference.module.eval()
    rows = rollout.rows()
    mask_BT = rollout.mask_BT
    out_BT = torch.zeros(mask_BT.shape)
    for indices, counts in shared(micro_batches([len(r.ids) for r in rows], max_tokens)):
        batch = TokenBatch.from_rows([rows[i] for i in indices], policy.pad_id, policy.device)
        kl_N = ops.linear_kl(*policy.hidden(batch), *reference.hidden(batch), rollout.temperature)
        if counts:
            out_BT[indices] = scatter(kl_N.cpu(), mask_BT[indices])
    return summed(out_BT)


@torch.no_grad()
def rollout_values(
    critic: Critic, rollout: Rollout, pad_id: int, device: torch.device, max_tokens: int, past_stop: bool = False
) -> Tensor:
    """V of the state before each position of `rollout.value_mask_BT(past_stop)`, [B, T] on the CPU, zero elsewhere."""
    critic.module.eval()
    rows = rollout.rows(past_stop=past_stop)
    mask_BT = rollout.value_mask_BT(past_stop)
    out_BT = torch.zeros(mask_BT.shape)
    for indices, counts in shared(micro_batches([len(r.ids) for r in rows], max_tokens)):
        batch = TokenBatch.from_rows([rows[i] for i in indices], pad_id, device)
        values_N = critic.values(batch).cpu()
        if counts:
            out_BT[indices] = scatter(values_N, mask_BT[indices])
    return summed(out_BT)
