"""Side effects that checks look for: files where nobody expects them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def no_stray_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails when the block leaves files in the current folder, which is `folder`, new and empty, meanwhile."""
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        yield
    stray = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert not stray, f"{', '.join(stray)} was written into the current folder: write into context.folder only"
