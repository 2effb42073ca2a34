"""The Ray cluster of a run: one that is there, or one made of this machine; and whether it has room."""

import logging
import math
import os
import re
import signal
import socket
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError

if TYPE_CHECKING:
    from alignkit_plugins.launcher_ray.plugin import RayConfig

logger = logging.getLogger("alignkit")

# Seconds for a connection to the address: Ray itself tries for minutes.
REACHED = 5.0
START = "start it with `ray start --head`, or leave address out for a cluster of this machine"


def connect(config: "RayConfig") -> None:
    """Join the cluster, or make one of this machine. Raises UserError where there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is to be reported to anybody
    options: dict[str, Any] = {"address": config.address or "local"}
    if config.address is None:
        wanted = config.processes if isinstance(config.processes, int) else 1
        cores = max(os.cpu_count() or 1, math.ceil(config.cpus * wanted))
        options |= {"num_cpus": cores, "object_store_memory": config.object_store_memory}
        options |= {"include_dashboard": False}
        logger.info("starting Ray on this machine")
    else:
        require_reachable(config.address)
        logger.info("joining the Ray cluster at %s", config.address)
    import ray

    before = signal.getsignal(signal.SIGTERM)  # Ray puts a handler of its own there
    try:
        ray.init(log_to_driver=False, logging_level="error", **options)
    except ConnectionError as error:
        raise UserError(f"no Ray cluster: {error}", where="launcher.address", hint=START) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def require_reachable(address: str) -> None:
    """Raise UserError unless something listens at `[ray://]HOST:PORT`; words such as `auto` are Ray's to look up."""
    if address in ("auto", "local"):
        return
    place = re.fullmatch(r"(?:ray://)?\[?([^\s/\[\]]+)\]?:(\d{1,5})", address)
    if place is None:
        raise UserError(f"{address!r} is no address: HOST:PORT, or auto", where="launcher.address", hint=START)
    try:
        socket.create_connection((place[1], int(place[2])), timeout=REACHED).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"nothing answers at {address}: {error}", where="launcher.address", hint=START) from error


def warn_of_little_room(config: "RayConfig", processes: int, use_gpu: bool, there: dict[str, float]) -> None:
    """Say it where the processes outnumber the cores or GPUs of the cluster, whose resources are `there`."""
    cores = (os.cpu_count() or 1) if config.address is None else there.get("CPU", 0)
    if processes * config.cpus > cores and config.address is None:
        logger.warning("launcher.processes: %d processes on %d cores of this machine take turns", processes, cores)
    elif processes * config.cpus > cores:
        wanted = processes * config.cpus
        logger.warning("launcher.processes: the cluster has %g cores, and Ray waits until it has %g", cores, wanted)
    gpus = there.get("GPU", 0)
    if use_gpu and processes > gpus:
        if config.address is None:
            hint = "fewer launcher.processes, or launcher.gpus=false"
            raise UserError(f"{processes} processes, and {gpus:g} GPUs here", where="launcher.gpus", hint=hint)
        logger.warning("launcher.processes: the cluster has %g GPUs, and Ray waits until it has %d", gpus, processes)
