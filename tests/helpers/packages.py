"""Building wheels, and running what is installed somewhere else as a user of it would."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Variables that would bring this source tree, or settings of its own, into another environment.
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "MYPYPATH", "ALIGNKIT_")


def call(*command: str | Path, cwd: Path, status: int = 0, **environment: str) -> str:
    """Output of a command that must end with `status`; the source tree is out of reach."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(LEFT_OUT)} | environment
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def build_wheel(source: Path, folder: Path) -> Path:
    """The wheel of a source tree, in `folder`."""
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    name = source.name.replace("-", "_") if source != ROOT else "alignkit"
    (built,) = folder.glob(f"{name}-*.whl")
    return built
