"""Which prompts a policy can be asked."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from alignkit.errors import UserError
from alignkit.protocols import Policy
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
