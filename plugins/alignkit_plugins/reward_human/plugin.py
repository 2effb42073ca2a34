"""Registers the reward source `human`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit_plugins.reward_human.config import HumanConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit_plugins.reward_human.source import HumanSource


def _build(config: HumanConfig, context: "BuildContext") -> "HumanSource":
    from alignkit.context import StepContext
    from alignkit_plugins.reward_human.source import HumanSource

    default = context.run.folder / "judgements"
    place = default if config.judgements is None else Path(config.judgements).expanduser()
    tasks_file = context.folder / "tasks.jsonl" if isinstance(context, StepContext) else None
    return HumanSource(place, config.min_share, tasks_file)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """People."""
    return [Component("human", _build, HumanConfig, "judgements of people, read from JSONL files; waits for them")]
