"""The example plugins, not installed: each registers and keeps its contract, by the sources in `examples/plugins`."""

import sys
from importlib import import_module
from typing import Any

import pytest

from alignkit.manager import PluginManager, PluginStatus
from alignkit.testing import AdvantageContract, AnnotatesContract, KernelContract, ScoresContract
from helpers.packages import ROOT

EXAMPLES = ROOT / "examples/plugins"
sys.path += [str(folder) for folder in sorted(EXAMPLES.glob("*/src"))]


def plugin(package: str) -> Any:
    """The module that registers the package's components; it imports nothing that the package depends on."""
    return import_module(f"{package}.plugin")


@pytest.mark.parametrize(
    ("package", "kind", "name"),
    [
        ("alignkit_opo", "advantage", "opo"),
        ("alignkit_vader", "reward_source", "vader"),
        ("alignkit_cce", "kernel", "cce"),
    ],
)
def test_registers(package: str, kind: str, name: str) -> None:
    manager, status = PluginManager(), PluginStatus(name, package, "0")
    manager.register(plugin(package), status)
    assert status.problem is None
    assert [(r.kind, r.component.name) for r in status.components] == [(kind, name)]


class TestOPO(AdvantageContract):
    plugin = plugin("alignkit_opo")
    component = "opo"


@pytest.fixture
def vader_is_there() -> None:
    pytest.importorskip("vaderSentiment")


@pytest.mark.usefixtures("vader_is_there")
class TestVaderScores(ScoresContract):
    plugin = plugin("alignkit_vader")
    component = "vader"
    better_than = (("A wonderful film.", "A terrible film."),)
    bad_options = ({"target": "neutral"},)


@pytest.mark.usefixtures("vader_is_there")
class TestVaderJudges(AnnotatesContract):
    plugin = plugin("alignkit_vader")
    component = "vader"
    options = {"target": "negative"}  # noqa: RUF012
    better_than = (("A terrible film.", "A wonderful film."),)


@pytest.fixture
def cce_is_there() -> None:
    pytest.importorskip("cut_cross_entropy")


@pytest.mark.usefixtures("cce_is_there")
class TestCCE(KernelContract):
    plugin = plugin("alignkit_cce")
    component = "cce"
