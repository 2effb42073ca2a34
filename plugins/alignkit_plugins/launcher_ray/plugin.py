"""Registers the launcher `ray`."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.errors import UserError
from alignkit.launching import Processes

if TYPE_CHECKING:
    from alignkit.manager import PluginManager
    from alignkit_plugins.launcher_ray.launcher import RayLauncher


class RayConfig(Config):
    """Options of the launcher `ray`. Every machine of the cluster needs the same alignkit and plugins."""

    processes: Processes = Field(
        "auto", description="in the whole cluster; auto: one for each of its GPUs, or one without GPUs"
    )
    address: str | None = Field(
        None, description="of the cluster; auto: the one that this machine belongs to; null: one on this machine alone"
    )
    gpus: bool | None = Field(None, description="a GPU for each process; null: if the cluster has any")
    cpus: float = Field(1, gt=0, description="cores that Ray sets aside for each process")
    shared_folder: str | None = Field(
        None, description="a folder that all machines see under this path; null: the current one"
    )
    object_store_memory: int = Field(
        100_000_000, ge=80_000_000, description="bytes for Ray's own store on a cluster of this machine; hardly used"
    )


def build(config: RayConfig, context: Any) -> "RayLauncher":
    """The launcher."""
    from alignkit_plugins.launcher_ray.launcher import RayLauncher

    return RayLauncher(config)


def check(config: RayConfig, manager: "PluginManager") -> None:
    """Raise UserError if Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError("Ray is not installed", where="launcher ray", hint="pip install 'alignkit[ray]'")


@hookimpl
def alignkit_launchers() -> Iterable[Component]:
    """The launcher `ray`."""
    summary = "processes on a Ray cluster, started by Ray Train"
    return [Component(name="ray", build=build, config=RayConfig, check=check, summary=summary)]
