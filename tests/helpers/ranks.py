"""Runs of `alignkit` as several processes, started as a launcher does."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ALIGNKIT = "from alignkit.cli import command_line; command_line()"


def group_of(count: int) -> list[dict[str, str]]:
    """What a launcher sets for each of `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    return [{**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {} for rank in range(count)]


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
