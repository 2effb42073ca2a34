"""Registers the reward source `human`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit import Component, UserError, hookimpl
from alignkit_plugins.reward_human.config import HumanConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.manager import PluginManager
    from alignkit_plugins.reward_human.source import HumanSource


def build(config: HumanConfig, context: "BuildContext") -> "HumanSource":
    """Open the run's store; the collection is the step's, of this round."""
    from alignkit_plugins.reward_human.source import open_source

    return open_source(config, context)


def check(config: HumanConfig, manager: "PluginManager") -> None:
    """Files that are named must be there, and hold what they should."""
    for path in (config.guidelines, config.gold):
        if path is not None and not Path(path).expanduser().is_file():
            raise UserError("the file does not exist", where=path)
    from alignkit_plugins.reward_human.source import gold_tasks, instructions

    instructions(config)
    gold_tasks(config)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """People."""
    summary = "people, asked in a web page (`alignkit label`) or through JSONL files; the run waits for them"
    return [Component(name="human", build=build, config=HumanConfig, check=check, summary=summary)]
