"""What each worker of Ray Train does: run `alignkit` in a process of its own and look after it.

Not in the worker itself: the train function runs in a thread, where no signal arrives, and beside Ray's own threads.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, Any, NamedTuple

from alignkit.errors import Fault
from alignkit.interruption import SIGNALS

POLL = 0.2
# Seconds that a process gets when another one has failed, as with torch's agent.
GRACE = 30.0


class Work(NamedTuple):
    """Arguments of `alignkit`, the folder it was called in, environment variables, and the board."""

    argv: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    board: Any


def work(config: dict[str, Any]) -> None:
    """The train function."""
    import ray
    from ray.train import get_context

    given: Work = config["work"]
    context = get_context()
    rank = context.get_world_rank()
    if not os.path.isdir(given.folder):  # noqa: PTH112
        raise Fault(f"{given.folder} is not there on the machine of process {rank}", hint="use a shared file system")
    host, port = _meeting(rank)
    environment = {
        **os.environ,
        **given.environment,
        "RANK": str(rank),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    if ray.get(given.board.begins.remote()):
        _look_after(_started(given, environment), rank, given.board)


def _meeting(rank: int) -> tuple[str, int]:
    """Address and free port of the process of rank 0."""
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    place: tuple[str, int] | None = None
    if rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            place = ray.util.get_node_ip_address(), free.getsockname()[1]
    found: tuple[str, int] = broadcast_from_rank_zero(place)
    return found


def _started(given: Work, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    # Ray's processes leave signals to the one that started them; a process takes over what its parent lets in.
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "alignkit.cli", *given.argv],
            env=environment,
            cwd=given.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _look_after(process: "subprocess.Popen[bytes]", rank: int, board: Any) -> None:
    """Pass on output and signals until the process has ended; end it if another one has failed."""
    import ray

    assert process.stdout is not None
    assert process.stderr is not None
    streams = {1: process.stdout, 2: process.stderr}
    readers = [threading.Thread(target=_read, args=(number, stream, board)) for number, stream in streams.items()]
    for reader in readers:
        reader.start()
    seen, told = 0, None
    while process.poll() is None:
        signals, failed = ray.get(board.news.remote(seen))
        seen += len(signals)
        for number in signals:
            process.send_signal(number)
        if failed and told is None:
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
        elif told is not None and time.monotonic() - told > GRACE:
            process.kill()
        time.sleep(POLL)
    for reader in readers:
        reader.join()
    ray.get(board.ended.remote(rank, process.returncode))


def _read(number: int, stream: IO[bytes], board: Any) -> None:
    while text := os.read(stream.fileno(), 1 << 16):
        board.say.remote(number, text)
