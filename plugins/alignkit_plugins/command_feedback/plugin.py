"""Registers the command `feedback`."""

from collections.abc import Iterable
from typing import Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig


def build(config: NoConfig, context: Any) -> Any:
    """The subcommand."""
    from alignkit_plugins.command_feedback.command import command

    return command


@hookimpl
def alignkit_commands() -> Iterable[Component]:
    """`alignkit feedback`."""
    return [Component("feedback", build, summary="import, export, measure and compare judgements; calibrate a judge")]
