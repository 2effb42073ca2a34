"""A step context without a run, and small stand-ins for the slots of the loop."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.records import FinishReason, Prompt
from alignkit.testing.context import Rows, make_context

__all__ = ["Rows", "TextScores", "make_context", "make_rollout"]


class TextScores:
    """A reward source made of a function of the completion's text."""

    def __init__(self, function: Callable[[str], float]) -> None:
        self.function = function

    def score(self, rollout: Rollout) -> Tensor:
        """The function of each text, [B]."""
        return torch.tensor([self.function(t) for t in rollout.texts])


def make_rollout(
    policy: Any, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], temperature: float = 1.0
) -> Rollout:
    """A rollout with given completions; prompts with one text share a group."""
    records = tuple(Prompt(prompt=p) for p in prompts)
    numbers: dict[str, int] = {}
    finish: list[FinishReason] = ["stop" if c[-1] in policy.stop_ids else "length" for c in completion_ids]
    return Rollout(
        prompts=records,
        prompt_ids=tuple(tuple(policy.encode_prompt(p)) for p in prompts),
        completion_ids=tuple(tuple(c) for c in completion_ids),
        texts=tuple(policy.decode(c) for c in completion_ids),
        finish=tuple(finish),
        group_B=torch.tensor([numbers.setdefault(r.id, len(numbers)) for r in records]),
        temperature=temperature,
        tokenizer_id=policy.tokenizer_id,
    )
