"""The Triton programs with the oldest release that is supported: interpreted, and compiled for every target."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The interpreter of 3.6 needs a numpy before 2.4.
OLDEST = ("triton==3.6.0", "numpy<2.4")


@pytest.mark.slow
def test_interpreted_and_compiled(tmp_path: Path) -> None:
    target = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), *OLDEST]
    subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    version = [sys.executable, "-c", "import triton; print(triton.__version__)"]
    found = subprocess.run(version, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "3.6.0"
    tests = [str(HERE / name) for name in ("test_interpreter.py", "test_ahead_of_time.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1], check=False)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
