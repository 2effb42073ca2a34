"""Modules of benchmarks/compare, which lie outside of every package."""

import importlib.util
import sys
from types import ModuleType

from helpers.pages import ROOT

FOLDER = ROOT / "benchmarks/compare"


def compare_module(name: str) -> ModuleType:
    """One that imports none of its neighbours: `table`, `page`, `meter`, `cases`."""
    spec = importlib.util.spec_from_file_location(f"bench_compare_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
