"""What of two run folders has to be the same to the byte, and what differs between them."""

import hashlib
import json
from pathlib import Path

# These say when, how long, and how much memory and disk was free; report.html shows it.
LEFT_OUT = {".lock", "timing.json", "report.html", "findings.json"}
TIMES = {"manifest.json": ("started", "seconds"), "plugins.json": ("started",)}


def content(run: Path) -> dict[str, str]:
    """Every file below a run's folder with the hash of its content, times left out."""
    return {path.relative_to(run).as_posix(): _hash(path) for path in sorted(run.rglob("*")) if path.is_file()}


def differences(whole: dict[str, str], other: dict[str, str]) -> list[str]:
    """One text for each file that is missing, that nobody expects, or whose content is another."""
    missing = [f"{name} is missing" for name in whole.keys() - other.keys()]
    extra = [f"{name} is left over" for name in other.keys() - whole.keys()]
    changed = [f"{name} differs" for name in whole.keys() & other.keys() if whole[name] != other[name]]
    return sorted(missing + extra + changed)


def _hash(path: Path) -> str:
    if path.name in LEFT_OUT:
        return ""
    data = path.read_bytes()
    if path.name in TIMES:
        found = json.loads(data)
        data = json.dumps({k: v for k, v in found.items() if k not in TIMES[path.name]}).encode()
    return hashlib.sha256(data).hexdigest()
