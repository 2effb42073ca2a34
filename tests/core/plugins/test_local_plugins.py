"""Plugins from a folder or a recipe: loaded by name of the person, known by their content, shadowing nothing."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit import Fault, UserError
from alignkit.components import NoConfig
from alignkit.describe import source_of
from alignkit.manager import PluginManager, PluginStatus
from alignkit.manager.local import version_of
from alignkit.recipe import load_recipe

HEAD = "from alignkit import Component, hookimpl\n"
Install = Callable[..., Path]


def source(name: str, more: str = "") -> str:
    """Code of a plugin with the advantage `name`."""
    return f"{HEAD}{more}@hookimpl\ndef alignkit_advantages():\n    return [Component({name!r}, print)]\n"


def manager_of(*folders: Path, disable: tuple[str, ...] = ()) -> PluginManager:
    """A manager with the plugins of these folders."""
    manager = PluginManager()
    manager.load(disable, folders)
    return manager


def local(manager: PluginManager) -> list[PluginStatus]:
    """The local plugins."""
    return [p for p in manager.plugins if p.distribution == "local"]


def test_every_file_and_package_of_the_folder_is_one_plugin(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(source("first"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "__init__.py").write_text("from .inner import NAME\n" + source("x").replace("'x'", "NAME"))
    (tmp_path / "two" / "inner.py").write_text("NAME = 'second'\n")
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "__init__.py").write_text("")
    (tmp_path / "three" / "plugin.py").write_text(source("third"))
    for passed_over in ("_helpers.py", ".hidden.py", "notes.txt"):
        (tmp_path / passed_over).write_text("1 / 0\n")
    (tmp_path / "no_package").mkdir()
    path = list(sys.path)
    manager = manager_of(tmp_path)
    assert [(p.name, p.problem) for p in local(manager)] == [("one", None), ("three", None), ("two", None)]
    assert {"first", "second", "third", "gae"} <= set(manager.names("advantage"))
    assert manager.get("advantage", "local:second").version.startswith("sha256:")
    assert sys.path == path
    assert not {"one", "two", "three"} & set(sys.modules)


def test_a_local_file_shadows_no_module_of_its_name(tmp_path: Path) -> None:
    import colorsys

    (tmp_path / "colorsys.py").write_text(source("shade", "import colorsys\nassert colorsys.rgb_to_hsv(0, 0, 0)\n"))
    (tmp_path / "torch.py").write_text(source("light"))
    before = {name: sys.modules.get(name) for name in ("colorsys", "torch")}
    manager = manager_of(tmp_path)
    assert [p.problem for p in local(manager)] == [None, None]
    assert {name: sys.modules.get(name) for name in before} == before
    assert sys.modules["colorsys"] is colorsys


def test_the_version_is_the_hash_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "one.py"
    file.write_text(source("first"))
    first = version_of(file)
    assert len(first) == len("sha256:") + 12
    (tmp_path / "moved").mkdir()
    copy = tmp_path / "moved" / "other.py"
    copy.write_text(source("first"))
    assert version_of(copy) == first
    # As long as before, and within the same second: Python's compiled files could not tell the two apart.
    os.utime(file, (1, 1))
    seen = manager_of(tmp_path).get("advantage", "first").version
    file.write_text(source("other"))
    os.utime(file, (1, 1))
    manager = manager_of(tmp_path)
    assert seen == first
    assert manager.get("advantage", "other").version == version_of(file) != first
    assert not (tmp_path / "__pycache__").exists()


def test_a_package_changes_with_any_of_its_files_but_compiled_ones(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text(source("mine"))
    table = package / "data" / "table.txt"
    table.write_text("a")
    first = version_of(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"1")
    (package / ".tool_cache").mkdir()
    (package / ".tool_cache" / "state").write_text("another")
    assert version_of(package) == first
    table.write_text("b")
    second = version_of(package)
    table.rename(package / "data" / "other.txt")
    assert len({first, second, version_of(package)}) == 3


def test_a_broken_local_plugin_is_recorded_and_leaves_no_module_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import sys\nassert __name__ in sys.modules\n1 / 0\n")
    (tmp_path / "good.py").write_text(source("good"))
    (tmp_path / "taken.py").write_text(source("gae"))
    manager = manager_of(tmp_path)
    problems = {p.name: str(p.problem) for p in local(manager)}
    assert problems["bad"] == "import of bad.py failed: ZeroDivisionError: division by zero"
    assert problems["good"] == "None"
    assert "built-in name" in problems["taken"]
    assert [m for m in sys.modules if m.endswith("_bad")] == []
    with pytest.raises(UserError) as caught:
        manager.get("advantage", "bad")
    assert "(bad): import of bad.py failed" in str(caught.value.hint)


def test_a_package_that_imports_itself_by_name_is_told_how(tmp_path: Path) -> None:
    for name, top, inside in [
        ("early_bird", "from early_bird.inner import X\n", "None"),
        ("late_bird", "", "__import__('late_bird.inner')"),
    ]:
        package = tmp_path / name
        package.mkdir()
        (package / "inner.py").write_text("X = 1\n")
        code = source(name).replace("print", f"lambda config, context: {inside}")
        (package / "__init__.py").write_text(top + code)
    manager = manager_of(tmp_path)
    early, late = local(manager)
    assert "No module named 'early_bird'; a package that is not installed imports its own modules rel" in str(
        early.problem
    )
    assert late.problem is None
    with pytest.raises(Fault) as caught:
        manager.get("advantage", "late_bird").build(NoConfig(), None)
    assert "from .module import name" in str(caught.value.hint)
    # What is not there and is not its own is another matter.
    (tmp_path / "early_bird" / "__init__.py").write_text("import no_such_library\n")
    assert "relatively" not in str(local(manager_of(tmp_path))[0].problem)


def test_two_folders_may_not_bring_plugins_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.py").write_text(source(f"of_{folder}"))
    manager = manager_of(tmp_path / "a", tmp_path / "b", tmp_path / "a")
    assert [p.problem for p in local(manager)] == [None, "there already is a plugin local:one"]
    assert "of_a" in manager.names("advantage")


def test_folders_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"in_{folder}.py").write_text(source(f"of_{folder}"))
    monkeypatch.setenv("ALIGNKIT_PLUGINS_DIR", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    assert {"of_a", "of_b"} <= set(manager_of().names("advantage"))
    # The allowlist is about what is installed; a folder was named by the person.
    monkeypatch.setenv("ALIGNKIT_PLUGINS", "")
    assert {"of_a", "of_b"} <= set(manager_of().names("advantage"))
    monkeypatch.setenv("ALIGNKIT_PLUGINS_DIR", str(tmp_path / "none"))
    with pytest.raises(UserError, match="is no folder") as caught:
        manager_of()
    assert caught.value.where == "ALIGNKIT_PLUGINS_DIR"


@pytest.mark.parametrize("name", ["one", "local"])
def test_local_plugins_can_be_left_out(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("alignkit"), "propagate", True)
    (tmp_path / "one.py").write_text(source("first"))
    manager = manager_of(tmp_path, disable=(name,))
    assert local(manager) == []
    assert manager.left_out == {"one": "plugins.disable"}
    assert caplog.messages == []


RECIPE = """name: small
plugins: {files: [FILE]}
policy: stub
steps:
  - {id: one, step: act}
"""
ACT = """from alignkit import Component, hookimpl
@hookimpl
def alignkit_steps():
    return [Component("act", print)]
@hookimpl
def alignkit_policies():
    return [Component("stub", print)]
"""


def recipe(folder: Path, file: str) -> str:
    """A recipe that brings `file`."""
    path = folder / "small.yaml"
    path.write_text(RECIPE.replace("FILE", file))
    return str(path)


def test_a_recipes_own_file_runs_only_if_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    path = recipe(tmp_path / "recipes", "acts.py")
    (tmp_path / "recipes" / "acts.py").write_text(ACT + "open('was_run', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"wants to run code of acts\.py") as caught:
        load_recipe(path, allow_code=frozenset({"other.py"}))
    assert str(caught.value.where).endswith("small.yaml:2")
    assert "--allow-code acts.py" in str(caught.value.hint)
    assert not Path("was_run").exists()
    loaded = load_recipe(path, allow_code=frozenset({"acts.py"}))  # relative to the recipe, wherever one stands
    assert Path("was_run").exists()
    assert loaded.manager.get("step", "act").reference == "local:act"


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        ("none.py", None, "no such file: none.py"),
        ("notes.txt", "x", "notes.txt is no Python file"),
        ("bad.py", "1 / 0\n", "the plugin bad.py cannot be used: import of bad.py failed: ZeroDivisionError"),
    ],
)
def test_a_recipes_file_that_cannot_be_used_is_an_error_at_its_line(
    file: str, code: str | None, said: str, tmp_path: Path
) -> None:
    if code is not None:
        (tmp_path / file).write_text(code)
    with pytest.raises(UserError, match=said) as caught:
        load_recipe(recipe(tmp_path, file), allow_code=frozenset({file}))
    assert str(caught.value.where).endswith("small.yaml:2")


@pytest.mark.parametrize("way", ["recipe", "argument", "environment"])
def test_strict_makes_any_failed_plugin_an_error(
    way: str, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acts.py").write_text(ACT)
    path = recipe(tmp_path, "acts.py")
    allowed = frozenset({"acts.py"})
    install("bad-dist", "3.4", bad_mod="1/0\n")
    load_recipe(path, allow_code=allowed)
    overrides: list[str] = []
    if way == "recipe":
        Path(path).write_text(RECIPE.replace("files: [FILE]", "files: [acts.py], strict: true"))
    elif way == "environment":
        monkeypatch.setenv("ALIGNKIT_STRICT_PLUGINS", "1")
    with pytest.raises(UserError, match=r"1 plugin\(s\) failed to load: bad-dist 3.4"):
        load_recipe(path, overrides, allow_code=allowed, strict_plugins=way == "argument")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "class Odd(Exception):\n    def __str__(self):\n        return 1 / 0\nraise Odd\n",
            "Odd: (its message cannot",
        ),
        ("raise GeneratorExit\n", "import of odd.py failed: GeneratorExit"),
    ],
)
def test_a_failure_is_told_whatever_its_exception_says(code: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(code)
    (odd,) = local(manager_of(tmp_path))
    assert problem in str(odd.problem)
    assert not str(odd.problem).endswith(": ")


def test_a_file_that_cannot_be_read_is_a_failed_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.py").write_text(source("good"))
    (tmp_path / "secret.py").write_text(source("secret"))
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "secret.py":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    good, secret = local(manager_of(tmp_path))
    assert good.problem is None
    assert "import of secret.py failed: PermissionError" in str(secret.problem)


@pytest.mark.parametrize("folder", ["~no_such_user/plugins", "n" * 300])
def test_a_folder_that_cannot_be_is_the_users_mistake(folder: str) -> None:
    with pytest.raises(UserError, match="--plugins-dir"):
        manager_of(Path(folder))


@pytest.mark.parametrize("when", ["at import", "in the hook"])
def test_a_plugin_cannot_lead_the_run_to_another_folder(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, folder = tmp_path / "work", tmp_path / "plugins"
    work.mkdir()
    folder.mkdir()
    monkeypatch.chdir(work)
    move = f"import os; os.chdir({str(tmp_path)!r})\n"
    in_hook = source("moves").replace("    return", f"    {move}    return")
    (folder / "moves.py").write_text(move + source("moves") if when == "at import" else in_hook)
    assert [p.problem for p in local(manager_of(folder))] == [None]
    assert Path.cwd() == work


def test_a_local_plugin_knows_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "it.py").write_text(source("it").replace("print)", "lambda config, context: None)"))
    (it,) = local(manager_of(Path("here")))
    assert source_of(it.components[0].component.build) == f"{tmp_path / 'here' / 'it.py'}:4"


def recipe_with(file: str, folder: Path, more: str = "") -> str:
    """A recipe that brings `file`; it is written but not valid further on."""
    path = folder / "recipe.yaml"
    path.write_text(f"name: x\nplugins: {{files: [{file!r}]{more}}}\npolicy: p\nsteps: [{{id: a, step: data}}]\n")
    return str(path)


def test_leave_for_a_module_is_no_leave_for_a_file_that_begins_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "rewards:evil.py").write_text("raise AssertionError('ran')\n")
    with pytest.raises(UserError, match="which was not allowed"):
        load_recipe(recipe_with("rewards:evil.py", tmp_path), allow_code=frozenset({"rewards"}))


@pytest.mark.parametrize("disabled", ["mine", "local"])
def test_a_recipe_may_not_bring_and_disable_a_file(disabled: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise AssertionError('ran')\n")
    recipe = recipe_with("mine.py", tmp_path, f", disable: [{disabled}]")
    with pytest.raises(UserError, match=r"recipe.yaml:2: the recipe names mine.py and disables it"):
        load_recipe(recipe, allow_code=frozenset({"mine.py"}))


def test_a_recipes_file_in_no_ones_home(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"~no_such_user is nobody's home"):
        load_recipe(recipe_with("~no_such_user/x.py", tmp_path))
