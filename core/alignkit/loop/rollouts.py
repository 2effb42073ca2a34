"""Sampling with a check of what came back, and parts of a rollout.

A sampler that is wrong (too few rows, ids of another vocabulary, log-probs of another shape) would otherwise show as an
index error in the loss, or as a policy that learns from noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import Fault
from alignkit.protocols import Policy, Sampler
from alignkit.records import Prompt, Sampling, plain_text

SHOWN = 200


def checked_rollout(
    sampler: Sampler, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, who: str = "the sampler"
) -> Rollout:
    """What `sampler` draws for `prompts`. Raises Fault, with `who` and the prompt, for what is no rollout of them."""
    rollout: Any = sampler.rollout(policy, prompts, sampling, seed)
    problem = next(rollout_problems(rollout, prompts, policy.head.weight_VH.shape[0]), None)
    if problem is not None:
        what, row = problem
        asked = "" if row is None else f" for prompt {row} of {len(prompts)}, {shortened(prompts[row])}"
        raise Fault(
            f"{who} returned {what}{asked}",
            hint="alignkit.testing checks samplers; alignkit.batches.Rollout says what one returns",
        )
    checked: Rollout = rollout
    return checked


def rollout_problems(rollout: Any, prompts: Sequence[Prompt], vocabulary: int) -> Iterator[tuple[str, int | None]]:
    """What is wrong, and the row it is wrong with (None: all); the later ones assume that the first are not there."""
    if not isinstance(rollout, Rollout):
        yield f"{type(rollout).__name__}, not a Rollout", None
        return
    if len(rollout) != len(prompts):
        nothing = "nothing" if len(rollout) == 0 else f"{len(rollout)} completions"
        yield f"{nothing} for {len(prompts)} prompts", None
        return
    for name in ("prompt_ids", "completion_ids", "texts", "finish", "group_B"):
        found = len(getattr(rollout, name))
        if found != len(prompts):
            yield f"{found} {name} for {len(prompts)} prompts", None
            return
    yield from _row_problems(rollout, prompts, vocabulary)
    yield from _tensor_problems(rollout)


def _row_problems(rollout: Rollout, prompts: Sequence[Prompt], vocabulary: int) -> Iterator[tuple[str, int | None]]:
    for b, prompt in enumerate(prompts):
        if rollout.prompts[b].id != prompt.id:
            yield f"a completion of another prompt ({rollout.prompts[b].id})", b
        if not rollout.prompt_ids[b]:
            yield "no prompt ids", b
        if not rollout.completion_ids[b]:
            yield "an empty completion (not even a stop token)", b
        for name, ids in (("prompt", rollout.prompt_ids[b]), ("completion", rollout.completion_ids[b])):
            outside = [i for i in ids if not 0 <= i < vocabulary]
            if outside:
                yield f"a {name} with token id {outside[0]}, outside the policy's vocabulary of {vocabulary}", b
        if rollout.finish[b] not in ("stop", "length"):
            yield f"finish reason {rollout.finish[b]!r}, neither 'stop' nor 'length'", b


def _tensor_problems(rollout: Rollout) -> Iterator[tuple[str, int | None]]:
    mask_BT = rollout.mask_BT
    logp_BT, kept_BTK = rollout.sampler_logp_BT, rollout.kept_BTK
    if logp_BT is not None:
        if logp_BT.shape != mask_BT.shape:
            yield f"log-probs of shape {tuple(logp_BT.shape)} for completions of {tuple(mask_BT.shape)}", None
            return
        bad_BT = ~torch.isfinite(logp_BT.cpu())  # behind the end too: NaN times a mask is NaN
        if bool(bad_BT.any()):
            b, t = bad_BT.nonzero()[0].tolist()
            place = f"token {t + 1} of the completion" if mask_BT[b, t] else "behind the end of the completion"
            yield f"a log-prob of {float(logp_BT[b, t])} ({place})", b
    if kept_BTK is not None and (kept_BTK.ndim != 3 or kept_BTK.shape[:2] != mask_BT.shape):
        yield f"kept ids of shape {tuple(kept_BTK.shape)} for completions of {tuple(mask_BT.shape)}", None


def select_rows(rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """Some completions of a rollout, as wide as the longest of them, with their groups numbered from 0."""
    chosen = list(rows)
    width = max(len(rollout.completion_ids[b]) for b in chosen)
    numbers: dict[int, int] = {}
    groups = [numbers.setdefault(int(g), len(numbers)) for g in rollout.group_B[chosen]]

    def cut(x_BT: Tensor | None) -> Tensor | None:
        return None if x_BT is None else x_BT[chosen, :width]

    return replace(
        rollout,
        prompts=tuple(rollout.prompts[b] for b in chosen),
        prompt_ids=tuple(rollout.prompt_ids[b] for b in chosen),
        completion_ids=tuple(rollout.completion_ids[b] for b in chosen),
        texts=tuple(rollout.texts[b] for b in chosen),
        finish=tuple(rollout.finish[b] for b in chosen),
        group_B=torch.tensor(groups),
        sampler_logp_BT=cut(rollout.sampler_logp_BT),
        kept_BTK=cut(rollout.kept_BTK),
    )


def shortened(text: Any) -> str:
    """A prompt or completion in quotes, at most 200 characters of it."""
    whole = plain_text(text.prompt) if isinstance(text, Prompt) else str(text)
    return repr(whole if len(whole) <= SHOWN else f"{whole[:SHOWN]}…")
