"""What a finished step has left, file by file, so that a later run notices what is missing or damaged."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.files import HASHED_BYTES, checksum

METRICS = "metrics.jsonl"


def listed(folder: Path, outputs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of a step's parts and of its metrics, by its path below `folder`."""
    paths = _files(folder, {*outputs.values(), METRICS})
    return dict(sorted((path.relative_to(folder).as_posix(), checksum(path)) for path in paths))


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What is wrong with the first of the `listed` files that is not as it was; None if all are.

    The content of very large files is not read again, only their size.
    """
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} has {size} bytes instead of {expected['bytes']}"
        if size <= HASHED_BYTES and checksum(path)["sha256"] != expected["sha256"]:
            return f"the content of {name} was changed"
    return None


def _files(folder: Path, parts: Iterable[str]) -> Iterator[Path]:
    """The files of the parts. `.` is the whole folder, whose parts have names of their own."""
    for part in sorted(set(parts) - {"."}):
        path = folder / part
        yield from (inside for inside in path.rglob("*") if inside.is_file()) if path.is_dir() else _one(path)


def _one(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
