"""Runs of `alignkit` as several processes, started as a launcher does."""

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Below those that systems hand out by themselves, and each test process has its own: a port that was free stays so.
PORTS = itertools.cycle(range(20_000 + os.getpid() % 100 * 100, 20_100 + os.getpid() % 100 * 100))
ALIGNKIT = "from alignkit.cli import command_line; command_line()"


def group_of(count: int) -> list[dict[str, str]]:
    """What a launcher sets for each of `count` processes."""
    port = next(port for port in PORTS if is_free(port))
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [{**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {} for rank in range(count)]


def is_free(port: int) -> bool:
    """Whether nothing listens there."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def start(
    folder: Path, count: int, arguments: Sequence[str], code: str = "", name: str = ""
) -> "list[subprocess.Popen[str]]":
    """`alignkit ARGUMENTS` in `folder` as `count` processes; `code` is run in each before. `name` is of their logs."""
    found = []
    for rank, environment in enumerate(group_of(count)):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400", **environment}
        log = (folder / f"log{name}{rank}.txt").open("w")
        command = [sys.executable, "-c", f"{code}\n{ALIGNKIT}", *arguments]
        found.append(subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, text=True))
        log.close()
    return found


def run(folder: Path, count: int, *arguments: str, code: str = "") -> list[int]:
    """The same to its end: every rank's exit status."""
    return [process.wait(240) for process in start(folder, count, ["run", *arguments], code)]


def said(folder: Path, rank: int = 0, name: str = "") -> str:
    """What a rank has printed in the last run (of that name)."""
    return (folder / f"log{name}{rank}.txt").read_text()
