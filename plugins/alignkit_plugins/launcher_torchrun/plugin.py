"""Registers the launcher `torchrun`."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.launching import Processes

# Of `rendezvous`.
PLACE = r"^[^\s:]+:\d+$"

if TYPE_CHECKING:
    from alignkit_plugins.launcher_torchrun.launcher import Torchrun


class TorchrunConfig(Config):
    """Options of the launcher `torchrun`. On several machines the same command is given on each."""

    processes: Processes = Field(
        "auto", description="on each machine; auto: one for each of its GPUs, or one without GPUs"
    )
    nodes: int = Field(1, ge=1, description="machines")
    node_rank: int | None = Field(
        None, ge=0, description="number of this machine, from 0; null: the machines settle it among themselves"
    )
    rendezvous: str | None = Field(
        None, pattern=PLACE, description="host:port of the first machine, the same on all; null: one machine"
    )
    id: str = Field("alignkit", min_length=1, description="tells runs that meet at one rendezvous apart")

    @field_validator("rendezvous", mode="before")
    @classmethod
    def _host_and_port(cls, value: Any) -> Any:
        if value is not None and not re.search(PLACE, str(value)):
            raise ValueError("HOST:PORT of the first machine, such as first-node:29400")
        return value

    @model_validator(mode="after")
    def _machines_meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need rendezvous: HOST:PORT of the first, the same on all")
        if self.node_rank is not None and self.node_rank >= self.nodes:
            raise ValueError(f"node_rank {self.node_rank}: {self.nodes} nodes have numbers up to {self.nodes - 1}")
        return self


def build(config: TorchrunConfig, context: Any) -> "Torchrun":
    """The launcher."""
    from alignkit_plugins.launcher_torchrun.launcher import Torchrun

    return Torchrun(config)


@hookimpl
def alignkit_launchers() -> Iterable[Component]:
    """The launcher `torchrun`."""
    summary = "processes on one machine or several, started by torch's elastic agent"
    return [Component(name="torchrun", build=build, config=TorchrunConfig, summary=summary)]
