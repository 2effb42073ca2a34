"""Every kind of component has a page; its examples are named in a recipe, built, and pass the page's own tests."""

import importlib
import os
import re
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
from alignkit.recipe import ComponentSpec, load_recipe
from alignkit.recipe.check import resolve
from alignkit.testing.context import make_context
from alignkit.testing.tiny import tiny_policy
from helpers.pages import DOCS, ROOT, blocks, write_files

# Checks and tests of one page that pass, at least; of those with a suite many more than were written on the page.
PASSING = {
    "policy": 20,
    "reward_source": 30,
    "advantage": 20,
    "optimizer_stage": 60,
    "step": 1,
    "sampler": 20,
    "data_format": 20,
    "kernel": 15,
    "tracker": 1,
    "launcher": 1,
    "command": 2,
}
# Kinds that no recipe names.
OUTSIDE = ("command",)
RECIPE = """
name: around
policy: {name: causal_lm, init: {preset: nano}, tokenizer: {train_on: "@corpus"}}
steps:
  - {id: corpus, step: data, format: {name: film_world}}
  - {id: trained, step: train, data: "@corpus", optimizer_stage: sft}
  - {id: aligned, step: align, prompts: "@corpus", reward_source: film_taste, advantage: rloo,
     optimizer_stage: reinforce, samples_per_prompt: 2, iterations: 1}
"""


def page(kind: str) -> Path:
    """The page of a kind."""
    return DOCS / "kinds" / f"{kind}.md"


@pytest.fixture
def example(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginManager]:
    """A manager with the page's examples, imported from files as the page names them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    files = [path.relative_to(tmp_path) for path in write_files(page(kind), tmp_path)]
    packages = [path.parent.name for path in files if path.name == "plugin.py"]
    assert packages
    manager = PluginManager()
    manager.load()
    for package in packages:
        status = PluginStatus(package, "shown-in-docs", "1")
        manager.register(importlib.import_module(f"{package}.plugin"), status)
        assert status.problem is None
    yield manager
    for module in [m for m in sys.modules if m.partition(".")[0] in packages]:
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
def test_the_examples_resolve_and_build(kind: Kind, example: PluginManager, tmp_path: Path) -> None:
    named = named_on(kind, example) or [(shown, {}) for shown in shown_by(kind, example)]
    assert {name for name, _ in named} == set(shown_by(kind, example))
    for name, options in named:
        if kind == "policy":
            tiny_policy().save(tmp_path / "model")
            options["path"] = str(tmp_path / "model")
        resolved = resolve(example, kind, ComponentSpec(name=name, **options), allowed=frozenset())
        assert resolved.registered.component.summary
        undescribed = [n for n, f in resolved.registered.component.config.model_fields.items() if not f.description]
        assert undescribed == []
        context = None if kind in ("kernel", "command") else make_context(tmp_path, manager=example)
        assert resolved.registered.build(resolved.config, context) is not None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OUTSIDE])
def test_what_a_page_puts_into_a_recipe_is_valid_there(kind: Kind, example: PluginManager, tmp_path: Path) -> None:
    found = fragments(kind)
    assert len(found) == len(shown_by(kind, example))
    for where, fragment in found:
        recipe = yaml.safe_load(RECIPE)
        steps: list[dict[str, Any]] = recipe["steps"]
        if where == "a recipe":
            recipe |= {**fragment, "steps": [*steps, *fragment.get("steps", ())]}
        else:
            (step,) = [step for step in steps if f"the step {step['step']}" == where]
            step |= fragment
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        load_recipe(str(file), (), example)


def test_a_tracker_beside_its_recipe(tmp_path: Path) -> None:
    (code,) = [block.text for block in blocks(page("tracker")) if block.title.endswith("/plugin.py")]
    (header,) = [block.text for block in blocks(page("tracker")) if block.language == "yaml" and not block.title]
    (tmp_path / "csv_tracker.py").write_text(code, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**yaml.safe_load(RECIPE), **yaml.safe_load(header)}))
    loaded = load_recipe(str(tmp_path / "recipe.yaml"), (), allow_code=frozenset({"csv_tracker.py"}))
    assert loaded.manager.get("tracker", loaded.recipe.trackers[-1].name).distribution == "local"


def shown_by(kind: Kind, manager: PluginManager) -> list[str]:
    """The page's own components."""
    return [r.component.name for r in manager.all(kind) if r.distribution == "shown-in-docs"]


def fragments(kind: Kind) -> list[tuple[str, dict[str, Any]]]:
    """The page's pieces of recipes and where each belongs: `a recipe` or `the step align`."""
    titled = [(block.title, block.text) for block in blocks(page(kind)) if block.language == "yaml" and block.title]
    places = [re.fullmatch(r"in (a recipe|the step \w+)", title) for title, _ in titled]
    return [(place[1], yaml.safe_load(text)) for place, (_, text) in zip(places, titled, strict=True) if place]


def named_on(kind: Kind, manager: PluginManager) -> list[tuple[str, dict[str, Any]]]:
    """The page's own components and their options, as its pieces of recipes have them."""
    found = []
    for _, fragment in fragments(kind):
        (value,) = fragment.values()
        for spec in value if isinstance(value, list) else [value]:
            options = {"name": spec} if isinstance(spec, str) else dict(spec)
            name = options.pop("step" if kind == "step" else "name")
            if name in shown_by(kind, manager):
                options.pop("id", None)
                found.append((name, options))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_s_own_tests_pass(kind: Kind, tmp_path: Path) -> None:
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
