"""Registers the `data` step."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit import Component, hookimpl
from alignkit_plugins.step_data.config import DataConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.manager import PluginManager
    from alignkit_plugins.step_data.step import DataStep


def _build(config: DataConfig, context: "BuildContext") -> "DataStep":
    from alignkit_plugins.step_data.check import check_options
    from alignkit_plugins.step_data.step import DataStep

    data_format = context.build("data_format", config.format)
    check_options(config, data_format)
    return DataStep(config, data_format)


def _check(config: DataConfig, manager: "PluginManager") -> None:
    from alignkit_plugins.step_data.check import check_data

    check_data(config, manager)


@hookimpl
def alignkit_steps() -> Iterable[Component]:
    """Records from files, the hub or a generator."""
    return [
        Component(
            "data",
            _build,
            DataConfig,
            "records from files, the hub or a generator, checked and split",
            check=_check,
        )
    ]
