"""How a process becomes one of several, and how all of them come to an end.

The first to end with something to say leaves its exit status in the store, and the others end with it, after it has
spoken and gone.
"""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from alignkit.errors import AlignkitError, EndedElsewhere, Terminated, UserError, said_by
from alignkit.processes import ENDED, LOOK_LONGEST, Group, lost, own_group, set_group, several

# Of an end that not all came to: who knows it, that it has been said, and who needs the store no more.
TOLD, GONE, LEFT = "told", "gone", "left"
# Seconds that another rank waits with its error for the first to say the same, and for whoever speaks to have ended.
TALK, LEAVE = 2.0, 30.0
_started = False  # whether this process has ever been in a group of ours


@contextmanager
def joined() -> Iterator[None]:
    """Inside, this process is one of those that the launcher has started; without a launcher, or inside of another
    `joined`, nothing is done.

    However one of them ends, all end, with the exit status of the first that had something to say.
    """
    if own_group() is not None or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    group, done = _start(), False
    set_group(group)
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
        set_group(None)
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
        status = status_of(error)
    if not _started:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


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
    group = own_group()
    if group is None or not is_lost_connection(error):
        return error
    if _within(group, LEAVE if group.rank else TALK, group.has_ended):
        return group.ended()
    return lost(error)


def _start() -> Group:
    """Join the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe, or take the one that is there."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    global _started
    try:
        new = not dist.is_initialized()
        if new:
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
    return Group(PrefixStore("alignkit", store), dist.get_rank(), dist.get_world_size(), new)


def _take_gpu(torch: Any) -> None:
    """One GPU for each process of a machine."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)


def _agreed_end(error: BaseException) -> BaseException:
    """What this process ends with: its own error if it is the first to have one, else without a word."""
    group = own_group()
    assert group is not None
    group.alone = 0
    error = as_ended(error)
    if not isinstance(error, EndedElsewhere):
        if group.rank != 0:  # the first speaks if it has the same to say
            _within(group, TALK, group.has_ended)
        try:
            own = f"{group.rank} {status_of(error)}"
            if group.store.compare_set(ENDED, "", own).decode() == own:
                atexit.register(_see_off, group, True)
                return _with_rank(error, group)
            error = group.ended()
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


def _see_off(group: Group, spoke: bool) -> None:
    """The last of a process: the first one keeps the store until nobody needs it, or for a while."""

    def all_others(key: str) -> None:
        if group.rank == 0:
            _within(group, TALK, lambda: group.store.add(key, 0) >= group.count - 1)

    all_others(TOLD)
    if spoke:
        with suppress(RuntimeError):  # nobody is left to be told
            group.store.set(GONE, "")
    all_others(LEFT)


def _within(group: Group, seconds: float, true: Callable[[], bool]) -> bool:
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


def _with_rank(error: BaseException, group: Group) -> BaseException:
    """A message of others than the first says whose it is, as torch sees to it that a traceback does."""
    if group.rank and isinstance(error, AlignkitError):
        error.what = f"process {group.rank} of {group.count}: {error.what}"
    return error


def status_of(error: BaseException) -> int:
    """The exit status of a process that ends with it."""
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


def _leave(group: Group, done: bool) -> None:
    """A group that is not taken down can end the process with a signal of its own, instead of its exit status."""
    import torch.distributed as dist

    # With NCCL the others would be waited for, who may not come.
    if group.own and (done or dist.get_backend() == "gloo"):
        dist.destroy_process_group()
