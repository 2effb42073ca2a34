"""Generated packages as their author gets to know them: installed, listed, tested, checked and run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit.scaffold import VARIANTS
from helpers.scaffold import Package, write_all

pytestmark = pytest.mark.slow
FOLDERS = [variant.folder for variant in VARIANTS]
# Runs of those whose recipes do different things; all others are checked.
RUN = ["data_format", "reward_scores"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """A package of every variant, by the variant."""
    return {p.variant.folder: p for p in write_all("alignkit-x{}", tmp_path_factory.mktemp("packages"))}


@pytest.fixture(scope="module")
def call(packages: dict[str, Package], tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs a Python module in an environment where all of them are installed from their wheels."""
    site = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}

    def run(module: str, *arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    flags = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    done = run("pip", "install", *flags, "--target", site, *(p.folder for p in packages.values()), cwd=site)
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_plugins_lists_them(call: Call, packages: dict[str, Package], tmp_path: Path) -> None:
    done = call("alignkit.cli", "plugins", "--json", cwd=tmp_path)
    listed = {row["distribution"]: row for row in json.loads(done.stdout)["plugins"]}
    assert len(packages) == 9
    for package in packages.values():
        row = listed[package.names.distribution]
        assert row["status"] == "ok", row["problem"]
        assert [(c["kind"], c["name"]) for c in row["components"]] == [(package.variant.kind, package.names.component)]


def test_doctor_finds_nothing(call: Call, packages: dict[str, Package], tmp_path: Path) -> None:
    done = call("alignkit.cli", "plugins", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert not [p.names.distribution for p in packages.values() if p.names.distribution in done.stdout], done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_own_tests_pass(call: Call, packages: dict[str, Package], folder: str) -> None:
    done = call("pytest", "-q", "-p", "no:cacheprovider", cwd=packages[folder].folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_strict_types(
    call: Call, packages: dict[str, Package], folder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # What mypy learns about alignkit and torch in the first of them serves all.
    cache = tmp_path_factory.getbasetemp() / "mypy-cache"
    done = call("mypy", "--cache-dir", cache, cwd=packages[folder].folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_recipe_is_fine(call: Call, packages: dict[str, Package], folder: str) -> None:
    done = call("alignkit.cli", "check", "recipe.yaml", cwd=packages[folder].folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recipe.yaml is fine" in done.stdout


@pytest.mark.parametrize("folder", RUN)
def test_recipe_runs(call: Call, packages: dict[str, Package], folder: str, tmp_path: Path) -> None:
    package = packages[folder]
    done = call("alignkit.cli", "run", "recipe.yaml", f"output={tmp_path}", cwd=package.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert package.names.distribution in (tmp_path / package.names.component / "plugins.json").read_text()
