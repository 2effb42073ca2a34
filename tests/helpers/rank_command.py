"""A command whose processes end as the test says, for launchers: `alignkit ranks END END`, one END for each rank.

END: an exit status; `killed` by SIGKILL; `stuck` until it is told to go; `saves:STATUS`, which on a signal takes a
while to save (file `saved-RANK`; rank 0 for longest) and ends with STATUS; `tells…`: prints it and its environment.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import click

from alignkit import Component, hookimpl


@click.command("ranks")
@click.argument("ends", nargs=-1)
def ranks(ends: tuple[str, ...]) -> None:
    """End as told."""
    rank = int(os.environ["RANK"])
    end = ends[rank]
    if end.startswith("tells"):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
        print(json.dumps({"end": end} | {n: os.environ.get(n) for n in names}), flush=True)
        end = "0"
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end.startswith("saves:"):
        save(rank)
        end = end.removeprefix("saves:")
    while end == "stuck":
        time.sleep(0.1)
    sys.exit(int(end))


def save(rank: int) -> None:
    """Note which signals came until the state was saved."""
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: came.append(number))
    Path(f"ready-{rank}").touch()
    while not came:
        time.sleep(0.05)
    time.sleep(1.5 * (rank == 0))
    Path(f"saved-{rank}").write_text(" ".join(map(str, came)))


@hookimpl
def alignkit_commands() -> list[Component]:
    """The command."""
    return [Component("ranks", lambda config, context: ranks)]
