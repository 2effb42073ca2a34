"""Plugins that are not installed: a Python file, or a folder with a package.

Their version is the hash of what they hold, so that an edited plugin is another version.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from alignkit.errors import UserError

LOCAL_DISTRIBUTION = "local"
HASH_DIGITS = 12
RELATIVE = "a package that is not installed imports its own modules relatively (from .module import name)"


def home_filled_in(path: Path) -> Path:
    """`~` and `~user` as the shell has them; what names no home stays as it is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def plugins_in(folder: Path, where: str) -> list[Path]:
    """Every `*.py` file and every package folder directly inside; names that begin with `_` or `.` are no plugins."""
    hint = "give a folder that holds plugins"
    try:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder", where=where, hint=hint)
        found = [p for p in folder.iterdir() if not p.name.startswith(("_", "."))]
    except OSError as error:  # no leave to read it, or a name that no file system has
        raise UserError(f"the folder cannot be read: {error}", where=where, hint=hint) from None
    return sorted(p for p in found if (p.suffix == ".py" and p.is_file()) or (p / "__init__.py").is_file())


def version_of(path: Path) -> str:
    """`sha256:` and 12 digits of the hash of the file, or of all files of the package."""
    total = hashlib.sha256()
    for file in _files(path):
        name = file.relative_to(path.parent).as_posix() if path.is_dir() else ""
        with file.open("rb") as stream:  # a package may hold data that memory does not
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return f"sha256:{total.hexdigest()[:HASH_DIGITS]}"


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    found = (p for p in path.rglob("*") if p.is_file())
    return sorted(p for p in found if not any(_is_by_product(part) for part in p.relative_to(path).parts))


def _is_by_product(part: str) -> bool:
    """Compiled files, and what tools keep in hidden folders."""
    return part == "__pycache__" or part.endswith(".pyc") or part.startswith(".")


class _Uncached(SourceFileLoader):
    """Runs the file as it is: compiled files are told apart by the second, and an edit may be faster."""

    def path_stats(self, path: str) -> dict[str, object]:
        raise OSError("not cached")


def import_plugin(path: Path, version: str) -> ModuleType:
    """Import under a name of its own, so that no installed module is shadowed; sys.path stays as it is.

    Of a package it is the module `plugin` inside, or else the package itself. Its modules import each other relatively.
    """
    place = hashlib.sha256(f"{path.resolve()}\0{version}".encode()).hexdigest()[:HASH_DIGITS]
    name = f"alignkit_local_{place}_{path.stem}"
    before = set(sys.modules)
    try:
        return _import(path, name)
    except BaseException as error:
        for module in [m for m in _below(name) if m not in before]:
            del sys.modules[module]
        if imports_itself(error, path.stem):
            raise ImportError(f"{error}; {RELATIVE}") from error
        raise


def imports_itself(error: BaseException, plugin: str) -> bool:
    """Whether a package failed by looking for itself where only installed packages are found."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == plugin


def _import(path: Path, name: str) -> ModuleType:
    if path.is_dir():
        package = _execute(name, path / "__init__.py", [str(path)])
        inner = path / "plugin.py"
        return _execute(f"{name}.plugin", inner) if inner.is_file() else package
    return _execute(name, path)


def _execute(name: str, file: Path, search: list[str] | None = None) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    loader = _Uncached(name, str(file))
    spec = spec_from_file_location(name, file, loader=loader, submodule_search_locations=search)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look a class's module up while it is being made
    loader.exec_module(module)
    return module


def _below(name: str) -> Iterator[str]:
    return (m for m in list(sys.modules) if m == name or m.startswith(f"{name}."))
