"""Installed distributions made of a few lines: a dist-info folder and modules on sys.path."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alignkit.manager import PluginManager

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("dist-name", "1.2", module=CODE, …)`: one entry point per module, of the module's name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def write(name: str, version: str = "1.0", **codes: str) -> Path:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        entries = "".join(f"{module} = {module}\n" for module in codes)
        (info / "entry_points.txt").write_text(f"[alignkit]\n{entries}")
        for module, code in codes.items():
            (site / f"{module}.py").write_text(code)
            modules.append(module)
        importlib.invalidate_caches()
        return info

    yield write
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def load() -> Callable[..., PluginManager]:
    """A manager with every installed plugin."""

    def loaded(**options: list[str]) -> PluginManager:
        manager = PluginManager()
        manager.load(**options)
        return manager

    return loaded
