"""Sampling in process: batches of prompts of like length, decoded over a key-value cache, log-probs kept.

A loop of our own around the model's forward pass, because PPO needs the log-prob of exactly the distribution that was
drawn from, every stop id has to end a row, and the result must follow from one seed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import UserError
from alignkit.protocols import Policy
from alignkit.records import FinishReason, Prompt, Sampling
from alignkit_plugins.sampler_hf.attention import attention_over_tables
from alignkit_plugins.sampler_hf.decoding import Completion, sample_batch
from alignkit_plugins.sampler_hf.drawing import uniforms
from alignkit_plugins.sampler_hf.packing import head_product, packed


class HFSampler:
    """Satisfies `alignkit.protocols.Sampler` and `DrawsByRow`."""

    draws_by_row = True

    def __init__(self, batch_size: int, batch_tokens: int | None = None, captured: bool = False) -> None:
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.captured = captured

    def rollout(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> Rollout:
        """One completion per prompt. Raises UserError for a prompt that leaves no room in the model's context."""
        prompt_ids = [tuple(policy.encode_prompt(p.prompt)) for p in prompts]
        _check_room(policy, prompts, prompt_ids, sampling)
        numbers = range(len(prompts)) if rows is None else rows
        batches = list(self._batches(prompt_ids, sampling.max_length))
        passes = sampling.max_length * len(batches)
        completions: dict[int, Completion] = {}
        was_training = policy.module.training
        if any(part.training for part in policy.module.modules()):  # switching takes as long as a token
            policy.module.eval()
        with _without_gradients(policy.module), packed(policy.module, policy.device, passes), attention_over_tables():
            logits_of = head_product(policy.head, passes)
            for batch in batches:
                uniform_BT = uniforms(seed, [numbers[i] for i in batch], sampling.max_length)
                own = [prompt_ids[i] for i in batch]
                found = sample_batch(policy, own, sampling, uniform_BT, logits_of, self.captured)
                completions.update(zip(batch, found, strict=True))
        if was_training:
            policy.module.train()
        return _rollout(policy, prompts, prompt_ids, [completions[i] for i in range(len(prompts))], sampling)

    def _batches(self, prompt_ids: Sequence[tuple[int, ...]], max_length: int) -> Iterator[list[int]]:
        """Row numbers of each batch: prompts of like length together, and equal ones, which are read once."""
        batch: list[int] = []
        for i in sorted(range(len(prompt_ids)), key=lambda i: (len(prompt_ids[i]), prompt_ids[i])):
            tokens = (len(batch) + 1) * (len(prompt_ids[i]) + max_length)
            full = len(batch) == self.batch_size
            if batch and (full or (self.batch_tokens is not None and tokens > self.batch_tokens)):
                yield batch
                batch = []
            batch.append(i)
        yield batch


@contextmanager
def _without_gradients(module: torch.nn.Module) -> Iterator[None]:
    """torch's inference mode, which costs less per operation than `no_grad`, where the module is in one piece.

    A buffer that the model renews inside could not be trained with: it is replaced by a copy. The hooks of a sharded
    module would leave such tensors elsewhere.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        with torch.no_grad():
            yield
        return
    try:
        with torch.inference_mode():
            yield
    finally:
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.is_inference():
                    part._buffers[name] = buffer.clone()


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


def _rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    prompt_ids: list[tuple[int, ...]],
    completions: list[Completion],
    sampling: Sampling,
) -> Rollout:
    rows = [c.ids for c in completions]
    if sampling.max_words is not None:
        rows = [cut_to_words(policy, row, sampling.max_words) for row in rows]
    finish: list[FinishReason] = ["stop" if row[-1] in policy.stop_ids else "length" for row in rows]
    width = max(len(row) for row in rows)
    logp_BT = torch.zeros(len(prompts), width)
    for b, (row, completion) in enumerate(zip(rows, completions, strict=True)):
        logp_BT[b, : len(row)] = torch.tensor(completion.logps[: len(row)])
    numbers: dict[str, int] = {}
    group_B = torch.tensor([numbers.setdefault(p.id, len(numbers)) for p in prompts])
    return Rollout(
        prompts=tuple(prompts),
        prompt_ids=tuple(prompt_ids),
        completion_ids=tuple(tuple(row) for row in rows),
        texts=tuple(policy.decode(row) for row in rows),
        finish=tuple(finish),
        group_B=group_B,
        temperature=sampling.temperature,
        tokenizer_id=policy.tokenizer_id,
        sampler_logp_BT=logp_BT,
        kept_BTK=_kept([c.kept_TK for c in completions], rows, width),
    )


def _kept(kept: Sequence[Tensor | None], rows: Sequence[Sequence[int]], width: int) -> Tensor | None:
    """[T, K] of each row as one [B, T, K], padded with -1."""
    found = [k for k in kept if k is not None]
    if not found:
        return None
    kept_BTK = torch.full((len(rows), width, max(k.shape[1] for k in found)), -1)
    for b, (kept_TK, row) in enumerate(zip(found, rows, strict=True)):
        kept_BTK[b, : len(row), : kept_TK.shape[1]] = kept_TK[: len(row)]
    return kept_BTK


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
