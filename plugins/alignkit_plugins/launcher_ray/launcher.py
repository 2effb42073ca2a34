"""The launcher `ray`: Ray Train places and numbers the processes, each a child of one of its workers."""

import logging
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import AlignkitError, Fault, UserError
from alignkit.interruption import SIGNALS
from alignkit.launching import TakenSignals, outcome
from alignkit_plugins.launcher_ray.board import Board
from alignkit_plugins.launcher_ray.cluster import connect, warn_of_little_room
from alignkit_plugins.launcher_ray.worker import POLL, Work, work

if TYPE_CHECKING:
    from alignkit_plugins.launcher_ray.plugin import RayConfig

logger = logging.getLogger("alignkit")

# What Ray's own processes are not to take; Ctrl-C Ray keeps from them itself.
HELD = [number for number in SIGNALS if number != signal.SIGINT]
# Of this process's environment, what those of the run get too.
GIVEN = ("ALIGNKIT_", "HF_", "OMP_NUM_THREADS")


class RayLauncher:
    """Satisfies `alignkit.protocols.Launcher`."""

    def __init__(self, config: "RayConfig") -> None:
        self.config = config

    def launch(self, argv: Sequence[str]) -> int:
        """Start the processes on the cluster, pass signals on, show what they say, return what they came to.

        Ray's own processes take over which signals this one lets in. A signal to all of them (by `timeout`, a
        scheduler) must not reach them: what the run still has to say goes through them.
        """
        folder = Path(self.config.shared_folder or Path.cwd()).absolute() / ".alignkit-ray"
        with _made(folder / uuid.uuid4().hex[:12]) as shared:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
            # Twice: another thread may take a signal while Ray starts, and Ray sets a handler of its own.
            with TakenSignals() as early:
                try:
                    connect(self.config)
                    with TakenSignals() as signals:
                        signal.pthread_sigmask(signal.SIG_SETMASK, before)
                        signals.came += early.came
                        return self._guarded(argv, signals, shared)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _guarded(self, argv: Sequence[str], signals: TakenSignals, shared: Path) -> int:
        import ray

        try:
            return 128 + signals.last if signals.last is not None else self._run(argv, signals, shared)
        except ray.exceptions.RayError as error:
            if signals.last is not None:
                return 128 + signals.last
            raise _lost("the Ray cluster is gone", error) from error
        finally:
            ray.shutdown()

    def _run(self, argv: Sequence[str], signals: TakenSignals, shared: Path) -> int:
        import ray

        actor: Any = ray.remote(num_cpus=0)(Board)
        board = actor.remote()
        training = _Training(self.config, Work(tuple(argv), str(Path.cwd()), _environment(), board), shared)
        training.start()
        passed = 0
        while training.is_alive():
            for number in signals.came[passed:]:
                board.signal.remote(number)
            passed = len(signals.came)
            if signals.last is not None and ray.get(board.given_up.remote()):
                return 128 + signals.last  # no process has begun: Ray may wait for machines
            if signals.overdue:
                board.signal.remote(signal.SIGKILL)
            _show(ray.get(board.heard.remote()))
            training.join(POLL)
        _show(ray.get(board.heard.remote()))
        statuses: dict[int, int] = ray.get(board.ends.remote())
        if training.error is not None and not any(statuses.values()):
            if signals.last is not None:
                return 128 + signals.last
            raise training.error
        return outcome(statuses, signals.last)


class _Training(threading.Thread):
    """`fit` of Ray Train. In the main thread it would take Ctrl-C itself, and abort."""

    def __init__(self, config: "RayConfig", given: Work, shared: Path) -> None:
        super().__init__(name="ray", daemon=True)
        self.config, self.given, self.shared = config, given, shared
        self.error: AlignkitError | None = None

    def run(self) -> None:
        from ray.train import RunConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        try:
            DataParallelTrainer(
                work,
                train_loop_config={"work": self.given},
                scaling_config=scaling(self.config),
                backend_config=_backend(),
                run_config=RunConfig(name=self.shared.name, storage_path=str(self.shared.parent)),
            ).fit()
        except AlignkitError as error:
            self.error = error
        except Exception as error:
            self.error = ended_by(error)
            self.error.__cause__ = error


def ended_by(error: Exception) -> Fault:
    """What Ray Train has ended with. Of a worker that is gone its type says all: the rest is Ray's inner affairs."""
    from ray.exceptions import NodeDiedError, RayActorError, WorkerCrashedError

    lost = RayActorError | WorkerCrashedError | NodeDiedError
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    # The group's look at its workers has the worker's own error inside.
    gone = [r for r, e in sorted(failures.items()) if isinstance(getattr(e, "health_check_failure", e), lost)]
    if gone:
        named = f"process {gone[0]}" if len(gone) == 1 else f"processes {', '.join(map(str, gone))}"
        return _lost(f"Ray's worker of {named} was killed, or its machine is gone", error)
    return _lost(f"Ray has ended the run: {error}", error)


def _lost(what: str, error: Exception) -> Fault:
    logger.debug("Ray says: %s", error)
    hint = "where memory runs out processes are killed, and all machines must see the folder of the run; the same "
    return Fault(what, where="launcher ray", hint=f"{hint}command goes on")


@contextmanager
def _made(shared: Path) -> Iterator[Path]:
    """A folder for Ray, which sees to it that every worker finds it: the run's folder has to be shared likewise."""
    try:
        shared.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"Ray needs a folder that can be written to: {error}",
            where="launcher.shared_folder",
            hint="launcher.shared_folder=FOLDER, which all machines see under this path; else it is the current one",
        ) from error
    try:
        yield shared
    finally:
        shutil.rmtree(shared, ignore_errors=True)
        if shared.parent.is_dir() and not any(shared.parent.iterdir()):
            shared.parent.rmdir()


def scaling(config: "RayConfig") -> Any:
    """How many processes with what, for Ray Train."""
    import ray
    from ray.train import ScalingConfig

    resources = ray.cluster_resources()
    there = int(resources.get("GPU", 0))
    use_gpu = there > 0 if config.gpus is None else config.gpus
    processes = config.processes if isinstance(config.processes, int) else max(1, there if use_gpu else 0)
    warn_of_little_room(config, processes, use_gpu, resources)
    return ScalingConfig(num_workers=processes, use_gpu=use_gpu, resources_per_worker={"CPU": config.cpus})


def _backend() -> Any:
    """Each process sees all GPUs that the run has on its machine, and takes that of its local rank."""
    from ray.train.backend import Backend, BackendConfig

    class Shared(Backend):  # type: ignore[misc]
        share_cuda_visible_devices = True

    class SharedConfig(BackendConfig):  # type: ignore[misc]
        backend_cls = Shared

    return SharedConfig()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(GIVEN)}


def _show(heard: list[tuple[int, bytes]]) -> None:
    """What the processes wrote, where they wrote it: 1 stdout, 2 stderr."""
    for descriptor, text in heard:
        while text:
            text = text[os.write(descriptor, text) :]
