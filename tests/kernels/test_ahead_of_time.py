"""Every Triton program compiles for the GPUs it is meant for, without one, and fits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
SHARED_LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """In a process without the interpreter, and with a cache of its own."""
    cache = tmp_path_factory.mktemp("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, str(HELPERS / "ahead_of_time.py")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-4000:]
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_every_program_is_there_for_every_target(compiled: list[dict[str, Any]]) -> None:
    from alignkit_kernels.triton_kernels import elementwise, vocabulary

    launched = {name for module in (elementwise, vocabulary) for name in vars(module) if name.startswith("row_")}
    launched |= {name for name in vars(elementwise) if name.endswith("_program")}
    assert len(launched) == 6
    assert {(row["program"], row["target"]) for row in compiled} == {(p, t) for p in launched for t in SHARED_LIMITS}


def test_nothing_spills_and_shared_memory_suffices(compiled: list[dict[str, Any]]) -> None:
    for row in compiled:
        assert row["stack"] == 0, row
        assert row["spills"] == 0, row
        assert row["shared"] <= SHARED_LIMITS[row["target"]], row
