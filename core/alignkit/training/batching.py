"""Which rows go together. Loss and gradients must not depend on any of it; only speed and memory do."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch

from alignkit import processes
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


def shared(batches: Iterable[list[int]]) -> Iterator[tuple[list[int], bool]]:
    """This process's part of some micro-batches, each with whether it counts; with one process all, and all count.

    Every process gets as many, because in each all of them gather weights and add up gradients. Who has none left gets
    one of the others' again, which must count nothing: whoever calls this multiplies its loss and its figures by
    `counts`, leaves its rows out, and adds up afterwards (`alignkit.processes.summed`).
    """
    every = [list(batch) for batch in batches]
    divided = processes.count()
    if divided == 1:
        yield from ((batch, True) for batch in every)
        return
    while every and len(every) % divided and max(map(len, every)) > 1:
        # Halves of alike length, since rows are sorted by it.
        widest = max(range(len(every)), key=lambda i: len(every[i]))
        batch = every[widest]
        every[widest : widest + 1] = [batch[::2], batch[1::2]]
    for place in range(processes.rank(), -(-len(every) // divided) * divided, divided):
        yield every[min(place, len(every) - 1)], place < len(every)


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """A fresh permutation of all rows, cut into batches; the last one may be smaller."""
    order = torch.randperm(count, generator=generator).tolist()
    return [order[i : i + batch_size] for i in range(0, count, batch_size)]


def longest_kept(max_length: int, too_long: Literal["drop", "error"], max_positions: int | None) -> int:
    """Tokens of the longest row that is not too long; where those are dropped, it also fits the model's positions.

    A sampled completion may fill them all, and as a row of training it has one token more, which closes it.
    """
    return min(max_length, max_positions or max_length) if too_long == "drop" else max_length


def limit_named(most: int, max_length: int) -> tuple[str, str]:
    """What it is that rows of more than `most` tokens do not fit, and what to do about it."""
    if most == max_length:
        return f"max_length {max_length}", "raise max_length"
    return f"the model's {most} positions", "shorten the texts, or take a model with more positions"


def check_positions(longest: int, max_positions: int | None) -> None:
    """Raise UserError if a row of `longest` tokens does not fit the model's context."""
    if max_positions is not None and longest > max_positions:
        raise UserError(
            f"the longest row has {longest} tokens and the model {max_positions} positions",
            where="max_length",
            hint=f"lower max_length (or block_length) to at most {max_positions}",
        )
