"""The launcher `torchrun`: `torch.distributed.launcher` starts and watches the processes."""

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from alignkit.errors import Fault
from alignkit.launching import TakenSignals, outcome

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

    from alignkit_plugins.launcher_torchrun.plugin import TorchrunConfig

logger = logging.getLogger("alignkit")

RANK = "alignkit_plugins.launcher_torchrun.rank"
POLL = 0.1


class Torchrun:
    """Satisfies `alignkit.protocols.Launcher`."""

    def __init__(self, config: "TorchrunConfig") -> None:
        self.config = config

    def launch(self, argv: Sequence[str]) -> int:
        """Start this machine's processes, pass signals on to them, and return what they came to.

        The agent runs in a thread: in the main thread it would take the signals itself, and before torch 2.12 kill
        after 30 seconds processes that are still saving their state.
        """
        with TemporaryDirectory(prefix="alignkit-") as folder, TakenSignals() as signals:
            agent = _Agent(self.config, Path(folder), argv)
            agent.start()
            passed: dict[int, int] = {}
            while agent.is_alive():
                pass_on(signals, Path(folder), passed)
                agent.join(POLL)
            if agent.error is not None:
                raise agent.error
            return outcome(agent.failures | _noted(Path(folder)), signals.last)


class _Agent(threading.Thread):
    """torch's agent with the processes of this machine."""

    def __init__(self, config: "TorchrunConfig", folder: Path, argv: Sequence[str]) -> None:
        super().__init__(name="torchrun", daemon=True)
        self.config, self.folder, self.argv = config, folder, argv
        # Local rank -> exit status, negative for a signal.
        self.failures: dict[int, int] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

        _quieten()
        # The agent fills `${…}` in, and turns `$$` into `$`.
        given = [part.replace("$", "$$") for part in (str(self.folder), *self.argv)]
        try:
            launch_config = settings(self.config, self.folder)
            warn_of_little_room(launch_config.nproc_per_node)
            with _threads(launch_config.nproc_per_node):
                elastic_launch(launch_config, sys.executable)("-m", RANK, *given)
        except ChildFailedError as failed:
            self.failures = {one.local_rank: one.exitcode for one in failed.failures.values()}
        except Exception as error:
            self.error = Fault(
                f"the processes could not be started: {error}",
                where="launcher torchrun",
                hint="on several machines: the same rendezvous and id on each, and a port that they can reach",
            )
            self.error.__cause__ = error


def settings(config: "TorchrunConfig", folder: Path) -> "LaunchConfig":
    """The same for torch, which makes folders of its own in `folder`.

    A run that stops is gone on with by the same command, so nothing is started again here.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    options: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": config.rendezvous, "run_id": config.id}
    if config.node_rank is not None and config.rendezvous is not None:
        options |= {"rdzv_backend": "static", "rdzv_configs": {"rank": config.node_rank}}
    if config.rendezvous is None:
        # A free port; and the machine's own name need not be one that it can be reached by.
        options |= {"rdzv_endpoint": "localhost:0", "run_id": uuid.uuid4().hex, "local_addr": "localhost"}
    return LaunchConfig(
        min_nodes=config.nodes,
        max_nodes=config.nodes,
        nproc_per_node=processes_here(config),
        max_restarts=0,
        monitor_interval=POLL,
        logs_specs=DefaultLogsSpecs(str(folder / "log")),
        **options,
    )


def processes_here(config: "TorchrunConfig") -> int:
    """How many to start on this machine."""
    if config.processes != "auto":
        return config.processes
    import torch

    return max(1, torch.cuda.device_count())


def warn_of_little_room(processes: int) -> None:
    """Say it where the processes outnumber the cores."""
    if processes > cores():
        logger.warning("launcher.processes: %d processes on %d cores of this machine take turns", processes, cores())


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pass_on(signals: TakenSignals, folder: Path, passed: dict[int, int]) -> None:
    """Send each process what it has not been sent yet. It is in a session of its own: the terminal sends none.

    `passed`: process -> how many of the signals it has been sent.
    """
    for file in folder.glob("*.pid") if signals.came else ():
        if file.with_suffix(".status").exists():
            continue
        pid = int(file.read_text())
        with suppress(ProcessLookupError):
            for number in signals.came[passed.get(pid, 0) :]:
                os.killpg(pid, number)
            if signals.overdue:
                os.killpg(pid, signal.SIGKILL)
        passed[pid] = len(signals.came)


def _noted(folder: Path) -> dict[int, int]:
    """Local rank -> exit status of the processes that came to their end themselves."""
    return {int(file.stem): int(file.read_text()) for file in folder.glob("*.status")}


@contextmanager
def _threads(processes: int) -> Iterator[None]:
    """Processes of one machine share its cores, unless OMP_NUM_THREADS says how."""
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, cores() // processes))
    try:
        yield
    finally:
        del os.environ[name]


def _quieten() -> None:
    """The agent's own account of a failure follows what the process has said of it; each of its loggers has a level."""
    import torch.distributed.elastic.agent.server.local_elastic_agent  # noqa: F401

    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch.distributed.elastic") and isinstance(logger, logging.Logger):
            logger.setLevel(logging.CRITICAL)
