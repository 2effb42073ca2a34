"""Which rows go together. Loss and gradients must not depend on any of it; only speed and memory do."""

from collections.abc import Iterator, Sequence

import torch

from alignkit.errors import UserError


def micro_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Index lists sorted by length, each with at most `max_tokens` padded tokens (at least one row)."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    current: list[int] = []
    for i in order:
        if current and lengths[i] * (len(current) + 1) > max_tokens:
            yield current
            current = []
        current.append(i)
    if current:
        yield current


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """A fresh permutation of all rows, cut into batches; the last one may be smaller."""
    order = torch.randperm(count, generator=generator).tolist()
    return [order[i : i + batch_size] for i in range(0, count, batch_size)]


def check_positions(longest: int, max_positions: int | None) -> None:
    """Raise UserError if a row of `longest` tokens does not fit the model's context."""
    if max_positions is not None and longest > max_positions:
        raise UserError(
            f"the longest row has {longest} tokens and the model {max_positions} positions",
            where="max_length",
            hint=f"lower max_length (or block_length) to at most {max_positions}",
        )
