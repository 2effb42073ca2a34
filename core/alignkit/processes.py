"""Several processes that do one run together: all do the same, except what they divide and what is for the first.

All of them run the same engine over the same recipe and hold the same records and decisions. What is divided (forward
and backward passes, sampling) is put together with `summed`, `largest` and `gathered`; what one does for all (files,
questions to reward sources) goes through `on_first`. torch is imported only where there are several.
"""

import atexit
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from alignkit.errors import AlignkitError, EndedElsewhere, Fault, Terminated, UserError, said_by

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("alignkit")

T = TypeVar("T")
# Of an end that not all came to: how it was, who knows it, that it has been said, and who needs the store no more.
ENDED, TOLD, GONE, LEFT = "ended", "told", "gone", "left"
# Seconds between two looks at whether the first process is done, from and to: a wait may be one for a judge's answers.
LOOK, LOOK_LONGEST = 0.002, 0.2
# Seconds that another rank waits with its error for the first to say the same, and for whoever speaks to have ended.
TALK, LEAVE = 2.0, 30.0


class _Group:
    """The process group as it was joined; its store is where the ranks leave word for each other."""

    def __init__(self, store: Any, rank: int, count: int, own: bool = True) -> None:
        self.store, self.rank, self.count = store, rank, count
        self.own = own  # whether it was made here, and is taken down here
        self.asked = 0  # calls of `on_first` so far, the same on every rank
        self.alone = 0

    def has_ended(self) -> bool:
        """Whether one of them has said how it ends."""
        return bool(self.store.check([ENDED]))


_group: _Group | None = None
_started = False  # whether this process has ever been in a group of ours


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
def joined() -> Iterator[None]:
    """Inside, this process is one of those that the launcher has started; without a launcher, or inside of another
    `joined`, nothing is done.

    However one of them ends, all end, with the exit status of the first that had something to say.
    """
    global _group
    if _group is not None or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    _group = _start()
    group, done = _group, False
    try:
        yield
        _meet()
        done = True
    except BaseException as error:
        ended = _agreed_end(error)
        if ended is error:
            raise
        raise ended from error
    finally:
        _group = None
        _leave(group, done)


def end_process(work: Callable[[], int | None]) -> NoReturn:
    """Do `work` and exit with the status it returns or ends with.

    A process that was one of several does not take its interpreter down: a thread of torch that still holds a tensor
    would abort it, now and then and whatever the status (https://github.com/pytorch/pytorch/issues/190489).
    """
    try:
        status = work() or 0
    except BaseException as error:
        if not _started:
            raise
        if not isinstance(error, SystemExit):
            sys.excepthook(type(error), error, error.__traceback__)
        status = _status_of(error)
    if not _started:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


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
    group = _group
    assert group is not None
    group.asked += 1
    key = f"first/{group.asked}"
    if group.rank == 0:
        with alone():
            found = work()
        group.store.set(key, json.dumps(found, default=float))  # numbers of other libraries
        return found
    said: T = json.loads(_awaited(group, key))
    if group.store.add(f"{key}/read", 1) == group.count - 1:  # the store keeps everything else
        group.store.delete_key(key)
        group.store.delete_key(f"{key}/read")
    return said


def heed_others() -> None:
    """Raises EndedElsewhere if another process has come to its end: whoever works alone would not notice."""
    if several() and _group is not None and _group.has_ended():
        raise _ended(_group)


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


def _start() -> _Group:
    """Join the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe, or take the one that is there."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    global _started
    try:
        own_group = not dist.is_initialized()
        if own_group:
            _started = True
            backend = "gloo"
            if torch.cuda.is_available():
                _take_gpu(torch)
                backend = "cpu:gloo,cuda:nccl"
            store, own, size = next(iter(rendezvous("env://")))
            dist.init_process_group(backend, store=PrefixStore("group", store), rank=own, world_size=size)
        else:
            store = dist.distributed_c10d._get_default_store()
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"this is process {os.environ.get('RANK', '?')} of {os.environ['WORLD_SIZE']}, and it cannot join the "
            f"others: {said_by(error)}",
            where="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT",
            hint="start the processes with torchrun or with a launcher of the recipe, which set these; or unset them",
        ) from error
    return _Group(PrefixStore("alignkit", store), dist.get_rank(), dist.get_world_size(), own_group)


def _see_off(group: _Group, spoke: bool) -> None:
    """The last of a process: the first one keeps the store until nobody needs it, or for a while."""

    def all_others(key: str) -> None:
        if group.rank == 0:
            _within(group, TALK, lambda: group.store.add(key, 0) >= group.count - 1)

    all_others(TOLD)
    if spoke:
        with suppress(RuntimeError):  # nobody is left to be told
            group.store.set(GONE, "")
    all_others(LEFT)


def _take_gpu(torch: Any) -> None:
    """One GPU for each process of a machine."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)


def _awaited(group: _Group, key: str) -> bytes:
    """What the first process leaves under `key`. Raises EndedElsewhere if it comes to its end instead."""
    pause = LOOK
    while True:
        try:
            if group.store.check([key]):
                found: bytes = group.store.get(key)
                return found
            if group.has_ended():
                raise _ended(group)
        except RuntimeError as error:  # the process that keeps the store is gone
            raise _lost(error) from error
        time.sleep(pause)
        pause = min(LOOK_LONGEST, pause * 1.2)


def _ended(group: _Group) -> EndedElsewhere:
    first, status = group.store.get(ENDED).decode().split()
    return EndedElsewhere(int(first), int(status))


def _lost(error: BaseException) -> Fault:
    return Fault(
        f"another process of this run is gone without a word: {said_by(error)}",
        hint="the system ends processes where memory runs out; the same command goes on from the last checkpoint",
    )


def is_lost_connection(error: BaseException) -> bool:
    """Whether this is what torch says when a process at the other end is gone."""
    if not several() or not isinstance(error, RuntimeError):
        return False
    import torch.distributed as dist

    text = str(error)
    words = ("gloo", "Connection closed", "Connection reset", "NCCL", "Broken pipe", "failed to recv")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def as_ended(error: BaseException) -> BaseException:
    """`error`, or, where it only follows from the end of another process, what says so."""
    if _group is None or not is_lost_connection(error):
        return error
    if _within(_group, LEAVE if _group.rank else TALK, _group.has_ended):
        return _ended(_group)
    return _lost(error)


def _agreed_end(error: BaseException) -> BaseException:
    """What this process ends with: its own error if it is the first to have one, else without a word."""
    assert _group is not None
    group = _group
    group.alone = 0
    error = as_ended(error)
    if not isinstance(error, EndedElsewhere):
        if group.rank != 0:  # the first speaks if it has the same to say
            _within(group, TALK, group.has_ended)
        try:
            own = f"{group.rank} {_status_of(error)}"
            if group.store.compare_set(ENDED, "", own).decode() == own:
                atexit.register(_see_off, group, True)
                return _with_rank(error, group)
            error = _ended(group)
        except RuntimeError:
            return _with_rank(error, group)
    atexit.register(_see_off, group, False)
    with suppress(RuntimeError):
        group.store.add(TOLD, 1)
    # A launcher ends the others when the first to go is gone: that has to be the one who speaks and tidies up.
    with suppress(KeyboardInterrupt, Terminated):  # when it does, nothing is left to wait for, nor to be said
        if _within(group, LEAVE, lambda: bool(group.store.check([GONE]))):
            with suppress(RuntimeError):
                group.store.add(LEFT, 1)
            time.sleep(LOOK_LONGEST)
    return error


def _with_rank(error: BaseException, group: _Group) -> BaseException:
    """A message of others than the first says whose it is, as torch sees to it that a traceback does."""
    if group.rank and isinstance(error, AlignkitError):
        error.what = f"process {group.rank} of {group.count}: {error.what}"
    return error


def _within(group: _Group, seconds: float, true: Callable[[], bool]) -> bool:
    """Whether `true` becomes so within as many seconds; asked of the group's store, which may be gone."""
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return True
        except RuntimeError:  # the process that keeps the store is gone
            return False
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)


def _status_of(error: BaseException) -> int:
    if isinstance(error, AlignkitError):
        return error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 1


def _meet() -> None:
    """All are done: nobody closes a connection that another still reads from."""
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.zeros(1))  # on the CPU: a barrier would take the GPUs


def _leave(group: _Group, done: bool) -> None:
    """A group that is not taken down can end the process with a signal of its own, instead of its exit status."""
    import torch.distributed as dist

    # With NCCL the others would be waited for, who may not come.
    if group.own and (done or dist.get_backend() == "gloo"):
        dist.destroy_process_group()
