"""Running the command line as a user does: in a process of its own."""

import subprocess
import sys
from pathlib import Path


def alignkit(*arguments: str, cwd: Path, status: int = 0, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    """Run `alignkit …` in `cwd` and check its exit status."""
    command = [sys.executable, "-m", "alignkit.cli", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == status, done.stderr[-3000:]
    return done
