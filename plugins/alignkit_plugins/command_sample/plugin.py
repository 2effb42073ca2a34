"""Registers the command `sample`."""

from collections.abc import Iterable
from typing import Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig


def build(config: NoConfig, context: Any) -> Any:
    """The subcommand."""
    from alignkit_plugins.command_sample.command import command

    return command


@hookimpl
def alignkit_commands() -> Iterable[Component]:
    """`alignkit sample`."""
    return [Component("sample", build, summary="sample from a model folder or hub name")]
