"""Fills the templates in and writes the package's folder, completely or not at all."""

from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignkit import __version__
from alignkit.components import API_VERSION
from alignkit.errors import UserError
from alignkit.files import atomic_folder
from alignkit.hookspecs import REGISTRATION_HOOKS
from alignkit.scaffold.naming import Names
from alignkit.scaffold.variants import Variant

TEMPLATES = Path(__file__).parent / "templates"
# Written file -> template, both with the names filled in.
FILES = {
    "README.md": "{folder}/README.md",
    "pyproject.toml": "common/pyproject.toml",
    ".gitignore": "common/gitignore",
    ".github/workflows/ci.yml": "common/ci.yml",
    "src/{package}/__init__.py": "common/init.py",
    "src/{package}/py.typed": "common/py.typed",
    "src/{package}/plugin.py": "{folder}/plugin.py",
    "src/{package}/{component}.py": "{folder}/component.py",
    "tests/test_conformance.py": "{folder}/conformance.py",
    "tests/test_{component}.py": "{folder}/unit.py",
    "recipe.yaml": "{folder}/recipe.yaml",
}


def write_package(names: Names, variant: Variant, parent: Path) -> list[str]:
    """Write `parent / names.distribution`; returns its files. Raises UserError if the folder has something in it."""
    target = parent / names.distribution
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError("this is there already and not empty", where=target, hint="choose another name or --output DIR")
    written: list[str] = []
    try:
        with atomic_folder(target) as temp:
            for name, text in rendered(names, variant):
                path = temp / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
                written.append(name)
    except OSError as error:
        raise UserError(f"the package cannot be written: {error}", where=target, hint="choose --output DIR") from None
    return written


def rendered(names: Names, variant: Variant) -> Iterator[tuple[str, str]]:
    """Path inside the package and text of every file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        # Python, TOML and GitHub's workflows have braces of their own.
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    extra = {name: "{folder}/" + name for name in variant.extra_files}
    for path, template in (FILES | extra).items():
        text = environment.get_template(template.format(folder=variant.folder) + ".jinja").render(
            names=names,
            kind=variant.kind,
            suite=variant.suite,
            hook=REGISTRATION_HOOKS[variant.kind],
            requirement=_requirement(__version__),
            api=API_VERSION,
        )
        yield path.format(package=names.package, component=names.component), text


def _requirement(version: str) -> str:
    """From this version on for two minor ones: what is announced meanwhile goes on working for so long."""
    public = version.partition("+")[0]
    major, minor = (int(part) for part in f"{public}.0".split(".")[:2])
    return f">={public},<{major}.{minor + 2}"
