"""Several processes that do one run together: all do the same, except what they divide and what is for the first.

All of them run the same engine over the same recipe and hold the same records and decisions. What is divided (forward
and backward passes, sampling) is put together with `summed`, `largest` and `gathered`; what one does for all (files,
questions to reward sources) goes through `on_first`. `joining` says how they come together and how they end. torch is
imported only where there are several.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from alignkit.errors import EndedElsewhere, Fault, said_by

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
ENDED = "ended"  # where the first process to end says which it is, and its exit status
# Seconds between two looks at whether the first process is done, from and to: a wait may be one for a judge's answers.
LOOK, LOOK_LONGEST = 0.002, 0.2


class Group:
    """The process group as it was joined; its store is where the ranks leave word for each other."""

    def __init__(self, store: Any, rank: int, count: int, own: bool = True) -> None:
        self.store, self.rank, self.count = store, rank, count
        self.own = own  # whether it was made here, and is taken down here
        self.asked = 0  # calls of `on_first` so far, the same on every rank
        self.alone = 0

    def has_ended(self) -> bool:
        """Whether one of them has said how it ends."""
        return bool(self.store.check([ENDED]))

    def ended(self) -> EndedElsewhere:
        """What that means for the others."""
        first, status = self.store.get(ENDED).decode().split()
        return EndedElsewhere(int(first), int(status))


_group: Group | None = None


def own_group() -> Group | None:
    """The one that this process has joined."""
    return _group


def set_group(joined: Group | None) -> None:
    """Be one of these; by itself with None."""
    global _group
    _group = joined


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _group is None else _group.rank


def count() -> int:
    """How many processes work together here: 1 inside of `alone`."""
    return 1 if _group is None or _group.alone else _group.count


def several() -> bool:
    """Whether this process works together with others just now."""
    return count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself: nothing waits for the others, which must not come here."""
    if _group is None:
        yield
        return
    _group.alone += 1
    try:
        yield
    finally:
        _group.alone -= 1


def on_first(work: Callable[[], T]) -> T:
    """What `work` returns (plain data) on the first process, which does it alone; the others wait, as long as it takes.

    An error there ends the others too.
    """
    if not several():
        return work()
    own = _group
    assert own is not None
    own.asked += 1
    key = f"first/{own.asked}"
    if own.rank == 0:
        with alone():
            found = work()
        own.store.set(key, json.dumps(found, default=float))  # numbers of other libraries
        return found
    said: T = json.loads(_awaited(own, key))
    if own.store.add(f"{key}/read", 1) == own.count - 1:  # the store keeps everything else
        own.store.delete_key(key)
        own.store.delete_key(f"{key}/read")
    return said


def heed_others() -> None:
    """Raises EndedElsewhere if another process has come to its end: whoever works alone would not notice."""
    if several() and _group is not None and _group.has_ended():
        raise _group.ended()


def summed(x: "Tensor") -> "Tensor":
    """`x` added up over the processes, the same on each; `x` itself where there is one."""
    return _reduced(x, "SUM") if several() else x


def largest(x: "Tensor") -> "Tensor":
    """The largest of the processes' values; `x` itself where there is one."""
    return _reduced(x, "MAX") if several() else x


def summed_figures(figures: Mapping[str, float], maxima: Sequence[str] = ()) -> dict[str, float]:
    """Figures of a divided batch, each process's share added up; of those named in `maxima` the largest."""
    if not several():
        return dict(figures)
    import torch

    adding = [name for name in figures if name not in maxima]
    found = dict(figures)
    for names, together in ((adding, summed), ([name for name in figures if name in maxima], largest)):
        if names:
            values = torch.tensor([float(figures[name]) for name in names], dtype=torch.float64)
            found |= dict(zip(names, together(values).tolist(), strict=True))
    return found


def gathered(data: bytes) -> list[bytes]:
    """Every rank's bytes. As tensors: torch's own gathering of objects pickles them."""
    if not several():
        return [data]
    import torch

    lengths = [int(size) for size in _all_gather(torch.tensor([len(data)]))]
    padded = torch.zeros(max(1, *lengths), dtype=torch.uint8)
    if data:
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return [row[:n].numpy().tobytes() for row, n in zip(_all_gather(padded), lengths, strict=True)]


def _reduced(x: "Tensor", how: str) -> "Tensor":
    import torch.distributed as dist

    whole = x.detach().cpu().clone()
    dist.all_reduce(whole, getattr(dist.ReduceOp, how))
    return whole.to(x.device)


def _all_gather(value: "Tensor") -> "list[Tensor]":
    import torch
    import torch.distributed as dist

    found = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(found, value)
    return found


def _awaited(group: Group, key: str) -> bytes:
    """What the first process leaves under `key`. Raises EndedElsewhere if it comes to its end instead."""
    pause = LOOK
    while True:
        try:
            if group.store.check([key]):
                found: bytes = group.store.get(key)
                return found
            if group.has_ended():
                raise group.ended()
        except RuntimeError as error:  # the process that keeps the store is gone
            raise lost(error) from error
        time.sleep(pause)
        pause = min(LOOK_LONGEST, pause * 1.2)


def lost(error: BaseException) -> Fault:
    """What it means that a process at the other end does not answer."""
    return Fault(
        f"another process of this run is gone without a word: {said_by(error)}",
        hint="the system ends processes where memory runs out; the same command goes on from the last checkpoint",
    )
