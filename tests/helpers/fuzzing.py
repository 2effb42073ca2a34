"""The modules of benchmarks/reliability/fuzz.py, which lie outside of every package."""

import importlib
import sys
from types import ModuleType

from helpers.pages import ROOT

FOLDER = ROOT / "benchmarks/reliability"


def fuzz_module(name: str) -> ModuleType:
    """`fuzz`, `fuzz_worker`, `fuzz_files`, …"""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
