"""Finding the component under test: among the installed plugins, or in a module that is not installed."""

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import pytest

from alignkit.hookspecs import PROJECT_NAME
from alignkit.manager import PluginManager, PluginStatus, Registered

HEAVY = ("torch", "transformers", "datasets", "tokenizers", "triton", "pandas", "scipy", "sklearn")
DISTRIBUTION = "under-test"


@cache
def manager_with(plugin: Any) -> PluginManager:
    """Every installed plugin, and `plugin` unless it is one of them. Fails the test where `plugin` cannot be used."""
    manager = PluginManager()
    manager.load()
    if plugin is not None and not is_installed(plugin):
        status = PluginStatus(module_of(plugin), DISTRIBUTION, "0")
        manager.register(plugin, status)
        if status.problem:
            pytest.fail(f"plugin {status.name} cannot be used: {status.problem}", pytrace=False)
    return manager


def is_installed(plugin: Any) -> bool:
    """Whether an entry point names this module, so that the manager has loaded it already."""
    return any(entry.value == module_of(plugin) for entry in entry_points(group=PROJECT_NAME))


def module_of(plugin: Any) -> str:
    """The name of a plugin that is a module, or of the module of its class."""
    return str(getattr(plugin, "__name__", type(plugin).__module__))


def registering_module(registered: Registered) -> str:
    """The module whose import registers an installed component."""
    found = entry_points(group=PROJECT_NAME, name=registered.plugin)
    return next(e.module for e in found if e.dist is not None and e.dist.name == registered.distribution)


@cache
def heavy_imports(module: str) -> list[str]:
    """Heavy packages that are loaded after importing `module` in a fresh process."""
    code = f"import sys, json, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{module} cannot be imported in a fresh process:\n{done.stderr}"
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found
