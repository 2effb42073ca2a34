"""Every kind of component has a page; its example is named as a recipe would, built, and passes the page's own test."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignkit import protocols
from alignkit.components import KINDS, Kind
from alignkit.contracts import PROTOCOLS
from alignkit.hookspecs import REGISTRATION_HOOKS
from alignkit.manager import PluginManager, PluginStatus
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve
from alignkit.testing.context import make_context
from alignkit.testing.tiny import tiny_policy
from helpers.pages import DOCS, ROOT, blocks, write_files

# Checks and tests of one page that pass, at least; of those with a suite many more than were written on the page.
PASSING = {
    "policy": 20,
    "reward_source": 30,
    "advantage": 20,
    "optimizer_stage": 20,
    "step": 1,
    "sampler": 20,
    "data_format": 20,
    "kernel": 15,
    "tracker": 1,
    "launcher": 1,
    "command": 2,
}


def page(kind: str) -> Path:
    """The page of a kind."""
    return DOCS / "kinds" / f"{kind}.md"


@pytest.fixture
def example(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginManager]:
    """A manager with the page's example, imported from files as the page names them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    files = [path.relative_to(tmp_path) for path in write_files(page(kind), tmp_path)]
    (plugin,) = [path for path in files if path.name == "plugin.py"]
    manager = PluginManager()
    manager.load()
    status = PluginStatus(plugin.parent.name, "shown-in-docs", "1")
    manager.register(importlib.import_module(f"{plugin.parent.name}.plugin"), status)
    assert status.problem is None
    yield manager
    for module in [m for m in sys.modules if m.partition(".")[0] == plugin.parent.name]:
        del sys.modules[module]


def test_there_are_11_kinds_and_no_other_page() -> None:
    assert len(KINDS) == 11
    assert {path.stem for path in (DOCS / "kinds").glob("*.md")} == {*KINDS, "index"}
    assert set(PASSING) == set(KINDS)
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"- {kind}: kinds/{kind}.md\n" not in listed] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_says_everything(kind: Kind) -> None:
    text = page(kind).read_text(encoding="utf-8")
    assert text.startswith(f"# {kind}\n")
    for heading in ("Example", "Testing it", "Built in"):
        assert f"\n## {heading}\n" in text
    assert REGISTRATION_HOOKS[kind] in text
    shown = [name for name in vars(protocols) if f"::: alignkit.protocols.{name}\n" in text]
    assert {p.__name__ for p in PROTOCOLS.get(kind, ())} <= set(shown)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_resolves_and_builds(kind: Kind, example: PluginManager, tmp_path: Path) -> None:
    (name,) = [r.component.name for r in example.all(kind) if r.distribution == "shown-in-docs"]
    options = options_on(kind, name)
    if kind == "policy":
        tiny_policy().save(tmp_path / "model")
        options["path"] = str(tmp_path / "model")
    resolved = resolve(example, kind, ComponentSpec(name=name, **options), allowed=frozenset())
    assert resolved.registered.component.summary
    undescribed = [n for n, f in resolved.registered.component.config.model_fields.items() if not f.description]
    assert undescribed == []
    context = None if kind in ("kernel", "command") else make_context(tmp_path, manager=example)
    assert resolved.registered.build(resolved.config, context) is not None


def options_on(kind: Kind, name: str) -> dict[str, Any]:
    """What the page's recipe gives the component."""
    recipes = [yaml.safe_load(block.text) for block in blocks(page(kind)) if block.language == "yaml"]
    if kind == "command":
        assert recipes == []
        return {}
    (recipe,) = recipes
    named = recipe[kind]
    if isinstance(named, str):
        named = {"name": named}
    key = "step" if kind == "step" else "name"
    assert named.pop(key) == name
    named.pop("id", None)
    return named


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_s_own_test_passes(kind: Kind, tmp_path: Path) -> None:
    write_files(page(kind), tmp_path)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= PASSING[kind], done.stdout[-1000:]


def run_pytest(folder: Path) -> "subprocess.CompletedProcess[str]":
    """pytest in a process of its own, as the plugin's author would call it."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "tests"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
