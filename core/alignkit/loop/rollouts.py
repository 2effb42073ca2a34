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
from alignkit.checkpoints.packing import pack, unpack
from alignkit.errors import Fault
from alignkit.loop.state import rollout_of, rollout_state
from alignkit.modeling.sharding import whole
from alignkit.processes import alone, count, gathered, rank, several
from alignkit.protocols import DrawsByRow, Policy, Sampler
from alignkit.records import Prompt, Sampling, plain_text
from alignkit.seeds import derived_seed

SHOWN = 200


def checked_rollout(
    sampler: Sampler,
    policy: Policy | None,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    who: str = "the sampler",
) -> Rollout:
    """What `sampler` draws for `prompts`; without a policy from what a `TextOnly` sampler brings.

    Raises Fault, with `who` and the prompt, for what is no rollout of them.
    """
    if several() and policy is not None:
        return _divided(sampler, policy, prompts, sampling, seed, who)
    return _checked(sampler, policy, prompts, sampling, seed, who, None)


def _checked(
    sampler: Any,
    policy: Policy | None,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    who: str,
    rows: Sequence[int] | None,
) -> Rollout:
    """The same for prompts that are the `rows` of a larger batch (None: all of it)."""
    numbered = {} if rows is None else {"rows": rows}
    rollout: Any = sampler.rollout(policy, prompts, sampling, seed, **numbered)
    vocabulary = None if policy is None else policy.head.weight_VH.shape[0]
    problem = next(rollout_problems(rollout, prompts, vocabulary), None)
    if problem is not None:
        what, row = problem
        asked = "" if row is None else f" for prompt {row} of {len(prompts)}, {shortened(prompts[row])}"
        raise Fault(
            f"{who} returned {what}{asked}",
            hint="alignkit.testing checks samplers; alignkit.batches.Rollout says what one returns",
        )
    checked: Rollout = rollout
    return checked


def _divided(
    sampler: Sampler, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, who: str
) -> Rollout:
    """Each process draws for its part of the prompts, all of one prompt together, and has all that were drawn."""
    numbers: dict[str, int] = {}
    owner = [numbers.setdefault(prompt.id, len(numbers)) % count() for prompt in prompts]
    parts = [[b for b, process in enumerate(owner) if process == number] for number in range(count())]
    mine = parts[rank()]
    data = b""
    with whole(policy):
        if mine:
            by_row = isinstance(sampler, DrawsByRow)
            own_seed = seed if by_row else derived_seed(seed, "process", rank())
            chosen = [prompts[b] for b in mine]
            with alone():
                part = _checked(sampler, policy, chosen, sampling, own_seed, who, mine if by_row else None)
            data = pack(rollout_state(part))
    found = [rollout_of(unpack(each)) for each in gathered(data) if each]
    return join_rollouts(found, [rows for rows in parts if rows])


def join_rollouts(rollouts: Sequence[Rollout], rows: Sequence[Sequence[int]]) -> Rollout:
    """One rollout of several, of which each has the completions of these rows."""
    place = sorted((b, part, n) for part, own in enumerate(rows) for n, b in enumerate(own))
    numbers: dict[tuple[int, int], int] = {}
    groups = [numbers.setdefault((part, int(rollouts[part].group_B[n])), len(numbers)) for _, part, n in place]

    def pick(name: str) -> Any:
        return tuple(getattr(rollouts[part], name)[n] for _, part, n in place)

    def stack(name: str, empty: float) -> Tensor | None:
        found = [getattr(rollout, name) for rollout in rollouts]
        if any(tensor is None for tensor in found):
            return None
        shape = [max(tensor.shape[d] for tensor in found) for d in range(1, found[0].ndim)]
        joined = torch.full((len(place), *shape), empty, dtype=found[0].dtype)
        for b, (_, part, n) in enumerate(place):
            row = found[part][n]
            joined[b][tuple(slice(size) for size in row.shape)] = row
        return joined

    return replace(
        rollouts[0],
        prompts=pick("prompts"),
        prompt_ids=pick("prompt_ids"),
        completion_ids=pick("completion_ids"),
        texts=pick("texts"),
        finish=pick("finish"),
        group_B=torch.tensor(groups),
        sampler_logp_BT=stack("sampler_logp_BT", 0.0),
        kept_BTK=stack("kept_BTK", -1),
    )


def rollout_problems(
    rollout: Any, prompts: Sequence[Prompt], vocabulary: int | None
) -> Iterator[tuple[str, int | None]]:
    """What is wrong, and the row it is wrong with (None: all); the later ones assume that the first are not there.

    Without a vocabulary the rollout has to be `text_only`, with one it must not be.
    """
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
    if rollout.text_only and vocabulary is not None:
        yield "texts without token ids, which is for samplers that say so beforehand (TextOnly)", None
        return
    yield from _row_problems(rollout, prompts)
    if vocabulary is None:
        yield from _text_problems(rollout)
    else:
        yield from _id_problems(rollout, vocabulary)
        yield from _tensor_problems(rollout)


def _row_problems(rollout: Rollout, prompts: Sequence[Prompt]) -> Iterator[tuple[str, int | None]]:
    for b, prompt in enumerate(prompts):
        if rollout.prompts[b].id != prompt.id:
            yield f"a completion of another prompt ({rollout.prompts[b].id})", b
        if rollout.finish[b] not in ("stop", "length"):
            yield f"finish reason {rollout.finish[b]!r}, neither 'stop' nor 'length'", b


def _text_problems(rollout: Rollout) -> Iterator[tuple[str, int | None]]:
    if not rollout.text_only or rollout.tokenizer_id:
        yield "no text_only rollout, though it was given no policy", None
    for b in range(len(rollout)):
        if rollout.prompt_ids[b] or rollout.completion_ids[b]:
            yield "token ids beside text_only", b
        if not isinstance(rollout.texts[b], str):
            yield f"{type(rollout.texts[b]).__name__} as text", b


def _id_problems(rollout: Rollout, vocabulary: int) -> Iterator[tuple[str, int | None]]:
    for b in range(len(rollout)):
        if not rollout.prompt_ids[b]:
            yield "no prompt ids", b
        if not rollout.completion_ids[b]:
            yield "an empty completion (not even a stop token)", b
        for name, ids in (("prompt", rollout.prompt_ids[b]), ("completion", rollout.completion_ids[b])):
            outside = [i for i in ids if not 0 <= i < vocabulary]
            if outside:
                yield f"a {name} with token id {outside[0]}, outside the policy's vocabulary of {vocabulary}", b


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
