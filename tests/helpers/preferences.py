"""Preferences to learn from, and what a plain loop in float64 says about them, one text at a time."""

import copy
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.data.store import RecordFile, write_records
from alignkit.protocols import FitTask
from alignkit.records import PreferencePair, Record
from alignkit.training.pairs import Group, make_groups
from alignkit.training.sequences import completion_row
from alignkit_plugins.policy_causal_lm.policy import CausalLM

WORDS = ["film", "story", "score", "ending", "brothers", "families", "acting"]


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> PreferencePair:
    """A preference pair."""
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, **more)


# Texts of unlike lengths; one ranking of three texts, a soft label, a tie, weights and margins.
PAIRS = [
    pair("the film", " won me over", " is long and dull", weight=1 / 3, group="r"),
    pair("the film", " won me over", " two", weight=1 / 3, group="r"),
    pair("the film", " is long and dull", " two", weight=1 / 3, group="r"),
    pair("this thriller about two brothers", " is warm", " left early with a score"),
    pair("I", " like slow stories", " who", p=0.8, weight=0.5),
    pair("I recommend", " it to families", " a haunting score", p=0.5),
    pair("a quiet", " story", " thriller and I left early", margin=0.7, weight=2.0),
    pair("who", " who", " is", p=0.1),
]


def groups_of(policy: CausalLM, pairs: Sequence[PreferencePair] = PAIRS) -> list[Group]:
    """Pairs in groups, encoded by `policy`."""
    return make_groups(pairs, partial(completion_row, policy), 200, "error", "x").groups


def plain_logp(module: Any, policy: CausalLM, prompt: str, completion: str) -> tuple[Tensor, int]:
    """Sum of log p over the completion with its end token, and how many tokens that are; one unpadded row, float64."""
    start = policy.encode_prompt(prompt)
    ids = [*start, *policy.encoder.text(completion), policy.encoder.end_id]
    logp_TV = torch.log_softmax(module(torch.tensor([ids])).logits[0], -1)
    logps = [logp_TV[t - 1, ids[t]] for t in range(len(start), len(ids))]
    return torch.stack(logps).sum(), len(logps)


def plain_gradients(policy: CausalLM, loss: Callable[[Any], Tensor]) -> tuple[float, dict[str, Tensor]]:
    """Value and gradients of `loss(module)` for a copy of the policy's module in float64."""
    module = copy.deepcopy(policy.module).double().eval()
    module.zero_grad(set_to_none=True)
    value = loss(module)
    value.backward()
    found = {n: p.grad.float() for n, p in module.named_parameters() if p.grad is not None}
    return float(value.detach()), found


def likes_warm(count: int, seed: int) -> list[PreferencePair]:
    """Pairs whose preferred side says "warm" and whose other side says "dull", among random words."""
    rng = random.Random(seed)

    def text(word: str) -> str:
        words = [rng.choice(WORDS), word, rng.choice(WORDS)]
        return "".join(f" {w}" for w in words)

    return [pair(f"the {rng.choice(WORDS)} {rng.choice(WORDS)}", text("warm"), text("dull")) for _ in range(count)]


def fit_task(
    policy: Any, context: Any, records: Sequence[Record], heldout: Sequence[Record] | None, folder: Path
) -> FitTask:
    """A task on records written to `folder`."""
    write_records(folder / "data.jsonl", records)
    write_records(folder / "heldout.jsonl", heldout or [])
    model = type(records[0]) if records else PreferencePair
    data, eval_data = (RecordFile(folder / f"{name}.jsonl", model) for name in ("data", "heldout"))
    return FitTask(lambda: policy, None, data, None if heldout is None else eval_data, context)
