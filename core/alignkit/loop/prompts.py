"""Which prompts a policy can be asked, and in which order it is."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch

from alignkit.errors import UserError
from alignkit.protocols import Policy, State
from alignkit.records import Prompt


class Fitting(NamedTuple):
    """Prompts that are short enough, and how many were left out."""

    prompts: list[Prompt]
    too_long: int


def fitting_prompts(
    policy: Policy, prompts: Iterable[Prompt], max_tokens: int | None, limit: int | None = None
) -> Fitting:
    """The first `limit` prompts with at most `max_tokens` tokens. Raises UserError if none is left."""
    if max_tokens is None:
        return Fitting(list(islice(prompts, limit)), 0)
    kept: list[Prompt] = []
    too_long = 0
    for prompt in prompts:
        if limit is not None and len(kept) == limit:
            break
        if len(policy.encode_prompt(prompt.prompt)) <= max_tokens:
            kept.append(prompt)
        else:
            too_long += 1
    if too_long and not kept:
        raise UserError(
            f"all {too_long} prompts have more than {max_tokens} tokens", where="max_prompt_length", hint="raise it"
        )
    return Fitting(kept, too_long)


class PromptBatches(Iterator[list[Prompt]]):
    """Endless batches: a fresh permutation of the prompts each epoch, each prompt `repeat` times in its batch."""

    def __init__(self, prompts: Sequence[Prompt], distinct: int, repeat: int, seed: int) -> None:
        self._prompts = prompts
        self._distinct = distinct
        self._repeat = repeat
        self._generator = torch.Generator().manual_seed(seed)
        self._queue: list[int] = []

    def __next__(self) -> list[Prompt]:
        while len(self._queue) < self._distinct:
            self._queue += torch.randperm(len(self._prompts), generator=self._generator).tolist()
        chosen, self._queue = self._queue[: self._distinct], self._queue[self._distinct :]
        return [self._prompts[i] for i in chosen for _ in range(self._repeat)]

    def state(self) -> dict[str, Any]:
        """The generator, and the prompts of its last permutation that are still to come."""
        return {"generator": self._generator.get_state(), "queue": torch.tensor(self._queue, dtype=torch.int64)}

    def restore(self, state: State) -> None:
        """Go on behind the last batch before `state()`."""
        data: dict[str, Any] = dict(state)
        self._generator.set_state(data["generator"])
        self._queue = data["queue"].tolist()
