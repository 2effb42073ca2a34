"""Registers the command `label`."""

from collections.abc import Iterable
from typing import Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig


def build_label(config: NoConfig, context: Any) -> Any:
    """The subcommand."""
    from alignkit_plugins.command_label.command import command

    return command


@hookimpl
def alignkit_commands() -> Iterable[Component]:
    """`alignkit label`."""
    return [Component(name="label", build=build_label, summary="a web page in which people judge a run's completions")]
