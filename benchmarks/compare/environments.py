"""Virtual environments of the peers, made once and kept in a cache.

Each sees this environment's packages through a path file, so that torch and transformers are the very same, and is
installed with everything here as constraint: pip adds what is missing and nothing else.
"""

import json
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

READY = "ready.json"


def python_of(requirement: str, folder: Path) -> Path:
    """The interpreter of the environment with `requirement` (`trl==1.16.0`) installed."""
    place = folder / requirement.replace("==", "-")
    python = place / "bin/python"
    wanted = {"requirement": requirement, "constraints": constraints()}
    marker = place / READY
    if not marker.is_file() or json.loads(marker.read_text(encoding="utf-8")) != wanted:
        _make(place, python, requirement, wanted["constraints"])
        marker.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def constraints() -> list[str]:
    """Everything that is installed here, pinned."""
    found = {d.metadata["Name"]: d.version for d in distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if name not in ("alignkit", "pip"))


def _make(place: Path, python: Path, requirement: str, pins: object) -> None:
    assert isinstance(pins, list)
    print(f"making {place} with {requirement}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    library = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (library / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pinned = place / "constraints.txt"
    pinned.write_text("\n".join(pins) + "\n", encoding="utf-8")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", pinned, requirement]
    subprocess.run(install, check=True)
