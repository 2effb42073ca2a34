"""Options that several commands have."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from alignkit.manager import PluginManager

F = TypeVar("F", bound=Callable[..., Any])


folder_option = click.option(
    "--plugins-dir",
    "plugin_folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also load each Python file and package in DIR as a plugin. May be given several times; "
    "ALIGNKIT_PLUGINS_DIR lists such folders for all commands.",
)
strict_option = click.option(
    "--strict-plugins",
    is_flag=True,
    help="A plugin that fails to load is an error. Also ALIGNKIT_STRICT_PLUGINS=1.",
)


def plugin_options(command: F) -> F:
    """`--plugins-dir` and `--strict-plugins`."""
    return folder_option(strict_option(command))


def load_plugins(folders: tuple[Path, ...], strict: bool) -> PluginManager:
    """A manager with every plugin. Raises UserError if it is to be strict and one failed."""
    manager = PluginManager()
    manager.load(folders=folders)
    if strict or manager.strict_by_environment():
        manager.require_all()
    return manager


def allowed_code(names: tuple[str, ...]) -> frozenset[str]:
    """Names given with --allow-code and in the environment."""
    listed = os.environ.get("ALIGNKIT_ALLOW_CODE", "").split(",")
    return frozenset(n.strip() for n in (*names, *listed) if n.strip())
