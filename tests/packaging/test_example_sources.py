"""The example plugins, not installed: each registers and keeps its contract, by the sources in `examples/plugins`."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from alignkit.components import Kind
from alignkit.manager import PluginManager, PluginStatus
from alignkit.testing import AdvantageContract, AnnotatesContract, KernelContract, ScoresContract
from alignkit.testing.context import make_context
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


@pytest.mark.parametrize(
    ("package", "kind", "name", "needs"),
    [
        ("alignkit_opo", "advantage", "opo", "torch"),
        ("alignkit_vader", "reward_source", "vader", "vaderSentiment"),
        ("alignkit_cce", "kernel", "cce", "cut_cross_entropy"),
    ],
)
def test_its_folder_works_without_being_installed(
    package: str, kind: Kind, name: str, needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(EXAMPLES))])
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    manager = PluginManager()
    status = manager.load_file(EXAMPLES / package.replace("_", "-") / "src" / package)
    assert status.problem is None
    registered = manager.get(kind, name)
    pytest.importorskip(needs)
    context = None if kind == "kernel" else make_context(tmp_path, manager=manager)
    built = registered.build(registered.component.config(), context)
    assert type(built).__module__.startswith("alignkit_local_")
    assert package not in sys.modules


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
