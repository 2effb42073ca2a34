"""Whoever watches a run goes away: its terminal is closed, the pipe that it is shown in is."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

CLOSED = """\
import fcntl, sys, termios, time
from alignkit.errors import Terminated
from alignkit.interruption import Interruption

fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # a signal comes to those whose terminal it is
interruption = Interruption()
with interruption.installed():
    try:
        with interruption.listening():
            print("ready", flush=True)
            while interruption.requested is None:
                time.sleep(0.01)
            print("what a tracker shows", file=sys.stderr, flush=True)
            with open(sys.argv[1], "w") as file:
                file.write("saved")
    finally:
        print("and what is said at the end", flush=True)
"""
WATCHED = """\
import logging, sys
from alignkit.console import console, set_up_logging

set_up_logging()
sys.stdin.readline()  # until nobody watches any more
for n in range(3):
    console().print("a row of metrics")
    logging.getLogger("alignkit").warning("something")
    print("by another package", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    file.write("saved")
"""


def test_a_closed_terminal_is_no_error_and_the_state_is_saved(tmp_path: Path) -> None:
    mine, its = pty.openpty()
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED, str(saved)], stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    try:
        assert os.read(mine, 100).strip() == b"ready"
        os.close(mine)
        assert process.wait(60) == 129
    finally:
        process.kill()
    assert saved.read_text() == "saved"


@pytest.mark.parametrize("kind", ["pipe", "terminal without a signal"])
def test_without_anybody_who_watches_it_goes_on(kind: str, tmp_path: Path) -> None:
    mine, its = os.pipe() if kind == "pipe" else pty.openpty()
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(saved)], stdin=subprocess.PIPE, stderr=its, start_new_session=True
    )
    os.close(its)
    os.close(mine)
    try:
        process.communicate(b"\n", timeout=60)
    finally:
        process.kill()
    assert (process.returncode, saved.read_text()) == (0, "saved")
