"""Versions and hardware, for the run's record."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "alignkit",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "peft",
    "pluggy",
    "pydantic",
    "safetensors",
    "triton",
)


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run. No host name, user name or path."""
    import torch

    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": versions,
    }
