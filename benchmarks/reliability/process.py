"""`alignkit run` as a process of its own, which can be killed at a moment.

Time is processor time (Linux): on a machine that does other things, the clock would not tell how far a run has come.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RUN = Path("runs/quickstart")
WAIT = 3600
POLL = 0.01
BEFORE, AFTER = "before the first step", "after the last step"
RESUMED = re.compile(r"going on from the checkpoint at")  # what the engine says when it takes up a checkpoint


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status (negative: killed by that signal), processor time, what it printed."""

    status: int
    seconds: float
    log: str


@dataclass(frozen=True)
class Found:
    """What a stopped run left: the step it stood in (or where else it was) and that step's newest checkpoint."""

    at: str
    checkpoint: str | None


class Bench:
    """Starts the same command again and again in one folder."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.run = folder / RUN
        self.command = [sys.executable, "-m", "alignkit.cli", "run", "quickstart", *overrides]
        # One thread: sums of floats are the same only if they are added in the same order.
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def go(self, kill_at: float | None = None, number: int = signal.SIGKILL) -> Ended:
        """Run to the end, or until the process has used so many seconds and gets the signal."""
        log = self.folder / "log.txt"
        before = log.stat().st_size if log.exists() else 0
        seconds = 0.0
        sent = False
        began = time.monotonic()
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
            while not ended(process.pid):
                seconds = max(seconds, processor_seconds(process.pid))
                if time.monotonic() - began > WAIT:
                    os.killpg(process.pid, signal.SIGKILL)
                elif kill_at is not None and seconds >= kill_at and not sent:
                    os.killpg(process.pid, number)
                    sent = True
                time.sleep(POLL)
            status = process.wait()
        return Ended(status, seconds, log.read_bytes()[before:].decode(errors="replace"))

    def found(self) -> Found:
        """Where the run stands now."""
        manifests = sorted(self.run.glob("r*/*/manifest.json"))
        if not manifests:
            return Found(BEFORE, None)
        last = manifests[-1]
        if json.loads(last.read_text(encoding="utf-8"))["status"] == "finished":
            at = AFTER if (self.run / "summary.json").is_file() else f"after {last.parent.name}"
            return Found(at, None)
        kept = sorted(p.name for p in (last.parent / "checkpoints").glob("[!.]*"))
        return Found(last.parent.name, kept[-1] if kept else None)


def processor_seconds(pid: int) -> float:
    """That a process has used so far."""
    # The name of the program, in brackets, may have spaces.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ended(pid: int) -> bool:
    """Whether a child of ours is done and waits to be asked for its status."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].startswith("Z")
