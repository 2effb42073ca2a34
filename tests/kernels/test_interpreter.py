"""Runs the tests of `interpreted/` with Triton's interpreter, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "interpreted"
TRAINING = FOLDER.parents[1] / "core/training/test_fused_stage.py::test_triton_ops_give_the_same_update"


def test_the_triton_programs_compute_what_they_should() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER), str(TRAINING)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2], check=False)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert " passed" in found.stdout
