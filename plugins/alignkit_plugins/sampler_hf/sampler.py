"""Sampling in process: prompts padded on the left, one cached forward pass per token, log-probs kept.

A loop of our own around the model's cache, because PPO needs the log-prob of exactly the distribution that was drawn
from, every stop id has to end a row, and the result must follow from one seed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import Fault, UserError
from alignkit.ops.linear_logprob import project
from alignkit.protocols import Policy
from alignkit.records import FinishReason, Prompt, Sampling


class HFSampler:
    """Satisfies `alignkit.protocols.Sampler`."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def rollout(self, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        """One completion per prompt. Raises UserError for a prompt that leaves no room in the model's context."""
        prompt_ids = [tuple(policy.encode_prompt(p.prompt)) for p in prompts]
        _check_room(policy, prompts, prompt_ids, sampling)
        generator = torch.Generator(policy.device).manual_seed(seed)
        completions: list[list[int]] = [[] for _ in prompts]
        logps: list[list[float]] = [[] for _ in prompts]
        kepts: list[Tensor | None] = [None for _ in prompts]
        # Prompts of like length share a batch: less padding, and the order does not depend on the batch size.
        order = sorted(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
        was_training = policy.module.training
        policy.module.eval()
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            ids, logp, kept_bTK = sample_batch(policy, [prompt_ids[i] for i in chunk], sampling, generator)
            for n, (i, row, row_logp) in enumerate(zip(chunk, ids, logp, strict=True)):
                completions[i], logps[i] = row, row_logp
                kepts[i] = None if kept_bTK is None else kept_bTK[n]
        policy.module.train(was_training)
        return _rollout(policy, prompts, prompt_ids, completions, logps, kepts, sampling)


def _check_room(
    policy: Policy, prompts: Sequence[Prompt], prompt_ids: list[tuple[int, ...]], sampling: Sampling
) -> None:
    if policy.max_positions is None:
        return
    longest = max(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
    if len(prompt_ids[longest]) + sampling.max_length > policy.max_positions:
        raise UserError(
            f"prompt {prompts[longest].id} has {len(prompt_ids[longest])} tokens; with max_length "
            f"{sampling.max_length} it does not fit the model's {policy.max_positions} positions",
            where="sampling.max_length",
            hint="lower max_length or leave long prompts out",
        )


@torch.no_grad()
def sample_batch(
    policy: Policy, prompt_ids: Sequence[Sequence[int]], sampling: Sampling, generator: torch.Generator
) -> tuple[list[list[int]], list[list[float]], Tensor | None]:
    """Completion ids, cut after the first stop id, their log-probs under the sampling distribution, and kept ids.

    The last are [B, T, K], padded with -1: what top-k and top-p left at each token; None where they leave all.
    """
    from transformers import DynamicCache

    model: Any = policy.module
    device = policy.device
    B = len(prompt_ids)
    width = max(len(p) for p in prompt_ids)
    ids_BT = torch.full((B, width), policy.pad_id, dtype=torch.long, device=device)
    mask_BT = torch.zeros((B, width), dtype=torch.long, device=device)
    for b, prompt in enumerate(prompt_ids):
        ids_BT[b, width - len(prompt) :] = torch.as_tensor(prompt, device=device)
        mask_BT[b, width - len(prompt) :] = 1
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    stop_S = torch.tensor(sorted(policy.stop_ids), device=device)
    alive_B = torch.ones(B, dtype=torch.bool, device=device)
    cache = DynamicCache(config=model.config)
    steps: list[Tensor] = []
    step_logps: list[Tensor] = []
    step_kept: list[Tensor] = []
    lengths_B = torch.zeros(B, dtype=torch.long, device=device)
    for _ in range(sampling.max_length):
        out = model.base_model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
        )
        logits_BV = project(out.last_hidden_state[:, -1], policy.head).float()
        token_B, logp_B, logp_BV = draw(logits_BV, sampling, generator)
        if restricted(sampling):
            step_kept.append(kept_ids(logp_BV).cpu())
        steps.append(token_B)
        step_logps.append(logp_B)
        lengths_B += alive_B
        alive_B &= ~torch.isin(token_B, stop_S)
        if not bool(alive_B.any()):
            break
        ids_BT = token_B[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)
        positions_BT = positions_BT[:, -1:] + 1
    tokens = torch.stack(steps, dim=1).tolist()
    logp = torch.stack(step_logps, dim=1).tolist()
    lengths = lengths_B.tolist()
    kept_BTK = _stacked(step_kept) if step_kept else None
    cut_ids = [t[:n] for t, n in zip(tokens, lengths, strict=True)]
    return cut_ids, [r[:n] for r, n in zip(logp, lengths, strict=True)], kept_BTK


def restricted(sampling: Sampling) -> bool:
    """Whether tokens are drawn from a part of the distribution."""
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)


def kept_ids(logp_BV: Tensor) -> Tensor:
    """Ids with a finite log-prob, most probable first, padded with -1, [B, K]."""
    width = int(torch.isfinite(logp_BV).sum(-1).max())
    values_BK, ids_BK = logp_BV.topk(width, dim=-1)
    return ids_BK.masked_fill(~torch.isfinite(values_BK), -1)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """[B, K_t] of each token as one [B, T, K]."""
    width = max(p.shape[1] for p in parts)
    return torch.stack([torch.nn.functional.pad(p, (0, width - p.shape[1]), value=-1) for p in parts], dim=1)


def draw(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One token per row, its log-prob and all log-probs of softmax(logits / temperature) restricted by top-k and top-p.

    Temperature 0 takes the largest logit, with log-prob 0.
    """
    if sampling.temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, torch.zeros(token_B.shape, device=logits_BV.device), logits_BV
    logits_BV = logits_BV / sampling.temperature
    logp_BV = torch.log_softmax(logits_BV, dim=-1)
    if sampling.top_k and sampling.top_k < logp_BV.shape[-1]:
        smallest_B1 = logp_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logp_BV = torch.log_softmax(logp_BV.masked_fill(logp_BV < smallest_B1, float("-inf")), dim=-1)
    if sampling.top_p < 1:
        sorted_BV, order_BV = logp_BV.sort(descending=True, dim=-1)
        before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
        drop_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(-1, order_BV, before_BV >= sampling.top_p)
        logp_BV = torch.log_softmax(logp_BV.masked_fill(drop_BV, float("-inf")), dim=-1)
    token_B = inverse_cdf(logp_BV.exp(), generator)
    return token_B, logp_BV.gather(-1, token_B[:, None]).squeeze(-1), logp_BV


def inverse_cdf(probs_BV: Tensor, generator: torch.Generator) -> Tensor:
    """One index per row, [B], by inverting the cumulative distribution at one uniform number.

    Eight times faster than `torch.multinomial` on a CPU, which draws a random number for each entry of the vocabulary.
    In float64, so that tails of large vocabularies keep their probability; an entry of probability 0 is never drawn.
    Raises Fault for probabilities that are not finite.
    """
    cdf_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    if not bool(torch.isfinite(cdf_BV[:, -1]).all()):
        raise Fault("the policy's logits are not finite", hint="the model has diverged: lower the learning rate")
    uniform_B1 = torch.rand(len(probs_BV), 1, dtype=torch.float64, device=probs_BV.device, generator=generator)
    # Below 1 by more than rounding, so that the product stays below the total.
    return torch.searchsorted(cdf_BV, uniform_B1.clamp(max=1 - 2**-52) * cdf_BV[:, -1:], right=True).squeeze(-1)


def _rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    prompt_ids: list[tuple[int, ...]],
    completions: list[list[int]],
    logps: list[list[float]],
    kepts: list[Tensor | None],
    sampling: Sampling,
) -> Rollout:
    if sampling.max_words is not None:
        completions = [cut_to_words(policy, row, sampling.max_words) for row in completions]
    finish: list[FinishReason] = ["stop" if row[-1] in policy.stop_ids else "length" for row in completions]
    width = max(len(row) for row in completions)
    logp_BT = torch.zeros(len(prompts), width)
    for b, (row, row_logp) in enumerate(zip(completions, logps, strict=True)):
        logp_BT[b, : len(row)] = torch.tensor(row_logp[: len(row)])
    found = [kept for kept in kepts if kept is not None]
    kept_BTK = None
    if found:
        kept_BTK = torch.full((len(prompts), width, max(k.shape[1] for k in found)), -1)
        for b, (kept, row) in enumerate(zip(found, completions, strict=True)):
            kept_BTK[b, : len(row), : kept.shape[1]] = kept[: len(row)]
    numbers: dict[str, int] = {}
    group_B = torch.tensor([numbers.setdefault(p.id, len(numbers)) for p in prompts])
    return Rollout(
        prompts=tuple(prompts),
        prompt_ids=tuple(prompt_ids),
        completion_ids=tuple(tuple(row) for row in completions),
        texts=tuple(policy.decode(row) for row in completions),
        finish=tuple(finish),
        group_B=group_B,
        temperature=sampling.temperature,
        tokenizer_id=policy.tokenizer_id,
        sampler_logp_BT=logp_BT,
        kept_BTK=kept_BTK,
    )


def cut_to_words(policy: Policy, ids: list[int], max_words: int) -> list[int]:
    """The longest prefix of `ids` whose text has at most `max_words` white-space words; at least one token."""
    if len(policy.decode(ids).split()) <= max_words:
        return ids
    low, high = 1, len(ids) - 1  # words grow with the prefix, so the cut can be found by halving
    while low < high:
        middle = (low + high + 1) // 2
        if len(policy.decode(ids[:middle]).split()) <= max_words:
            low = middle
        else:
            high = middle - 1
    return ids[:low]
