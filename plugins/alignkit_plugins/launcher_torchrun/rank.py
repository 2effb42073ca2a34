"""One of the processes: `python -m alignkit_plugins.launcher_torchrun.rank FOLDER ARGUMENTS` is `alignkit ARGUMENTS`.

The agent takes any exit status but 0 for a failure, upon which it ends the other processes, within 30 seconds by force.
Endings that all come to, each in its own time (a rank may still be writing the checkpoint), are none: their status is
noted in FOLDER, and the process ends with 0.
"""

import os
import signal
import sys
from pathlib import Path

from alignkit import cli
from alignkit.interruption import SIGNALS
from alignkit.joining import end_process, status_of
from alignkit.launching import TOGETHER


def main(folder: Path, argv: list[str]) -> int:
    """Note the process id for whoever passes signals on, run `alignkit`, note its exit status."""
    rank = os.environ["LOCAL_RANK"]
    note(folder / f"{rank}.pid", os.getpid())
    try:
        cli.main(argv)
        status = 0
    except (SystemExit, KeyboardInterrupt) as end:  # Ctrl-C once more, while the first was being answered
        status = status_of(end)
    for number in SIGNALS:  # what is left to do takes no time
        signal.signal(number, signal.SIG_IGN)
    note(folder / f"{rank}.status", status)
    return 0 if status in TOGETHER else status


def note(path: Path, number: int) -> None:
    """Whoever reads the file finds the whole number in it."""
    begun = path.with_suffix(path.suffix + ".part")
    begun.write_text(str(number))
    begun.replace(path)


if __name__ == "__main__":
    end_process(lambda: main(Path(sys.argv[1]), sys.argv[2:]))
