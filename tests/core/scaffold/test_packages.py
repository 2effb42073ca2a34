"""The text of generated packages: it parses, is formatted, and says the same everywhere."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import BaseModel

from alignkit import API_VERSION, __version__
from alignkit.errors import UserError
from alignkit.hookspecs import REGISTRATION_HOOKS
from alignkit.manager import PluginManager, PluginStatus
from alignkit.scaffold import VARIANTS, Names, write_package
from alignkit.testing import __all__ as suites
from alignkit.testing.context import make_context
from alignkit.testing.tiny import tiny_policy
from helpers.scaffold import Package, write_all


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Package]:
    """A package of every variant."""
    return write_all("alignkit-x{}", tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module", params=[v.folder for v in VARIANTS])
def package(request: pytest.FixtureRequest, packages: list[Package]) -> Package:
    """Each of them."""
    return next(p for p in packages if p.variant.folder == request.param)


@pytest.fixture
def plugin(package: Package) -> ModuleType:
    """Its plugin module, without its package being installed."""
    spec = importlib.util.spec_from_file_location(f"{package.names.package}.plugin", package.source / "plugin.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    return module


def config_of(package: Package, plugin: ModuleType) -> type[BaseModel]:
    """The options of its component."""
    (component,) = getattr(plugin, REGISTRATION_HOOKS[package.variant.kind])()
    config: type[BaseModel] = component.config
    return config


def test_files(package: Package) -> None:
    names = package.names
    files = {p.relative_to(package.folder).as_posix() for p in package.folder.rglob("*") if p.is_file()}
    modules = {f"src/{names.package}/{m}" for m in ("__init__.py", "py.typed", "plugin.py", f"{names.component}.py")}
    tests = {"tests/test_conformance.py", f"tests/test_{names.component}.py"}
    others = {"README.md", "pyproject.toml", "recipe.yaml", ".gitignore", ".github/workflows/ci.yml"}
    assert files == modules | tests | others | set(package.variant.extra_files)
    for file in files:
        text = (package.folder / file).read_text(encoding="utf-8")
        assert not re.search(r"<<|>>|<%|%>|<#|#>", text), f"a mark of the template is left in {file}"
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), file
        assert "\n\n\n" not in text or file.endswith(".py"), file


# The lines' lengths and the order of imports follow from the name.
@pytest.mark.parametrize(
    "pattern", ["alignkit-x{}", "z{}", "{}-a-name-as-long-as-it-may-be", "alignkit-{}-and-long-it-is"]
)
def test_lint_and_format(pattern: str, tmp_path: Path) -> None:
    for package in write_all(pattern, tmp_path):
        for command in (["check", "--no-cache"], ["format", "--check", "--diff", "--no-cache"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, "."],
                cwd=package.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{package.names}\n{done.stdout}{done.stderr}"


def test_registers_without_torch(package: Package) -> None:
    code = (
        "import sys; from alignkit.manager import PluginManager, PluginStatus;"
        f"import {package.names.package}.plugin as plugin;"
        "manager = PluginManager(); status = PluginStatus('p', 'd', '0'); manager.register(plugin, status);"
        f"print(status.problem, manager.names({package.variant.kind!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package.source.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"None ['{package.names.component}'] False\n"


def test_its_folder_works_without_being_installed(package: Package, tmp_path: Path) -> None:
    assert importlib.util.find_spec(package.names.package) is None
    manager = PluginManager()
    status = manager.load_file(package.source)
    assert status.problem is None
    registered = manager.get(package.variant.kind, package.names.component)
    options = {"policy": {"path": str(tmp_path / "model")}}.get(package.variant.kind, {})
    if options:
        tiny_policy().save(tmp_path / "model")
    if package.variant.kind == "reward_source":
        options["word"] = "film"
    registered.build(registered.component.config.model_validate(options), make_context(tmp_path, manager=manager))
    # The one that was built is that of the folder, under the name that it has there.
    loaded = f"{status.components[0].component.build.__module__.rpartition('.')[0]}.{package.names.component}"
    assert loaded.startswith("alignkit_local_")
    assert sys.modules[loaded].__file__ == str(package.source / f"{package.names.component}.py")


def test_says_which_api_it_was_written_for(package: Package, plugin: ModuleType) -> None:
    manager, status = PluginManager(), PluginStatus("p", "d", "0")
    manager.register(plugin, status)
    assert status.problem is None
    assert manager.get(package.variant.kind, package.names.component).component.summary
    # Written out: the default would be that of whatever alignkit is installed.
    assert f"api={API_VERSION}," in (package.source / "plugin.py").read_text()


def test_readme_lists_the_options(package: Package, plugin: ModuleType) -> None:
    config = config_of(package, plugin)
    # What it has from a base of alignkit's own is not repeated, unless it is changed.
    own = {name: config.model_fields[name] for name in config.model_fields if name in vars(config)["__annotations__"]}
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", (package.folder / "README.md").read_text(), re.MULTILINE)
    assert {name for name, _, _ in rows} == set(own)
    for name, default, meaning in rows:
        assert meaning.replace("\\|", "|") == own[name].description
        if own[name].is_required():
            assert default == "required"
        else:
            assert yaml.safe_load(default.strip("`")) == own[name].default


def test_metadata(package: Package) -> None:
    project = tomllib.loads((package.folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == package.names.distribution
    assert project["entry-points"] == {"alignkit": {package.names.component: f"{package.names.package}.plugin"}}
    (requirement,) = (Requirement(r) for r in project["dependencies"])
    assert requirement.name == "alignkit"
    assert requirement.specifier.contains(__version__, prereleases=True)
    major, minor = (int(part) for part in __version__.split(".")[:2])
    assert requirement.specifier.contains(f"{major}.{minor + 1}.9")
    assert not requirement.specifier.contains(f"{major}.{minor + 2}")
    own = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == own["requires-python"]
    assert "testing" in own["optional-dependencies"]
    assert "alignkit[testing]" in project["optional-dependencies"]["dev"]
    assert "license" not in project  # its author's choice


def test_recipe_and_readme_name_the_component(package: Package) -> None:
    recipe = yaml.safe_load((package.folder / "recipe.yaml").read_text())
    assert recipe["name"] == package.names.component
    assert any(package.names.component == name for name in _names_in({**recipe, "name": ""}))
    (example,) = re.findall(r"```yaml\n(.+?)```", (package.folder / "README.md").read_text(), re.DOTALL)
    assert package.names.component in list(_names_in(yaml.safe_load(example)))


def test_workflow(package: Package) -> None:
    workflow = yaml.safe_load((package.folder / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert "${{ matrix.python }}" in [s["with"]["python-version"] for s in steps if "with" in s]
    assert {"pytest", "mypy", "ruff check .", "alignkit check recipe.yaml"} <= {s.get("run") for s in steps}


def test_conformance_suite(package: Package) -> None:
    text = (package.folder / "tests/test_conformance.py").read_text()
    assert package.variant.suite in suites
    assert f"class Test{package.names.class_name}({package.variant.suite}):" in text


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    names = Names("alignkit-mine", VARIANTS[0].suffix)
    (tmp_path / "alignkit-mine").mkdir()
    (tmp_path / "alignkit-mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        write_package(names, VARIANTS[0], tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == ["alignkit-mine", "thesis.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "alignkit-mine").mkdir()
    assert "README.md" in write_package(Names("alignkit-mine", "Policy"), VARIANTS[0], tmp_path)
    assert (tmp_path / "alignkit-mine/README.md").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["alignkit-mine"]


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(write_package.__globals__["FILES"], "late.txt", "common/no-such-template")
    with pytest.raises(Exception, match="no-such-template"):
        write_package(Names("alignkit-mine", "Policy"), VARIANTS[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


def _names_in(data: Any) -> Any:
    """Every text in a recipe, keys aside."""
    if isinstance(data, dict):
        for value in data.values():
            yield from _names_in(value)
    elif isinstance(data, list):
        for value in data:
            yield from _names_in(value)
    elif isinstance(data, str):
        yield data
