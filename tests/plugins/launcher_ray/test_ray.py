"""The launcher `ray`: how a worker looks after its process, and two workers of a cluster on this machine."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from alignkit.errors import Fault, UserError
from alignkit.launching import TakenSignals
from alignkit.manager import PluginManager
from alignkit_plugins.launcher_ray import cluster, launcher, plugin, worker
from alignkit_plugins.launcher_ray.board import Board
from alignkit_plugins.launcher_ray.launcher import RayLauncher
from alignkit_plugins.launcher_ray.plugin import RayConfig
from helpers import rank_command


class Near:
    """A board in this process, called as an actor is."""

    def __init__(self) -> None:
        self.board = Board()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.board, name)
        return type("Method", (), {"remote": staticmethod(method)})


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Near:
    """A board, and `ray.get` for it."""
    monkeypatch.setattr("ray.get", lambda value: value)
    return Near()


def look_after(code: str, near: Near, monkeypatch: pytest.MonkeyPatch) -> int:
    """The status of a process of this Python code, as rank 1."""
    monkeypatch.setattr(worker, "POLL", 0.02)
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    worker._look_after(process, 1, near)
    return near.board.ends()[1]


def test_output_and_status_are_passed_on(near: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert look_after(code, near, monkeypatch) == 3
    heard = near.board.heard()
    assert [b"".join(text for number, text in heard if number == n) for n in (1, 2)] == [b"out\n", b"err\n"]
    assert near.board.heard() == []


def test_signals_are_passed_on_once_each(near: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    near.board.signal(signal.SIGINT)
    near.board.signal(signal.SIGTERM)
    code = (
        "import signal, sys, time\ncame = []\n"
        "for n in (2, 15): signal.signal(n, lambda n, f: came.append(n))\n"
        "time.sleep(0.6); sys.exit(10 * len(came))"
    )
    signals = near.board.signals
    near.board.signals = []
    monkeypatch.setattr(near.board, "news", delayed(near.board, signals))
    assert look_after(code, near, monkeypatch) == 20


def delayed(board: Board, signals: list[int]) -> Any:
    """`news` that has the signals once the process listens."""
    begun = time.monotonic()

    def news(seen: int) -> tuple[list[int], bool]:
        if time.monotonic() - begun > 0.3:
            board.signals = signals
        return Board.news(board, seen)

    return news


@pytest.mark.parametrize("status", [1, 2, 4, -9])
def test_a_failure_elsewhere_ends_the_process(status: int, near: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    near.board.ended(0, status)
    assert look_after("import time; time.sleep(60)", near, monkeypatch) == -signal.SIGTERM


def test_one_that_does_not_listen_is_killed(near: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE", 0.5)
    near.board.ended(0, 4)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    assert look_after(code, near, monkeypatch) in (-signal.SIGKILL, -signal.SIGTERM)


@pytest.mark.parametrize("status", [0, 3, 130, 143])
def test_an_ending_that_all_come_to_hurries_no_other(status: int) -> None:
    board = Board()
    board.ended(0, status)
    assert board.news(0) == ([], False)


def test_nobody_begins_once_the_run_was_given_up() -> None:
    waiting, running = Board(), Board()
    assert waiting.given_up()
    assert not waiting.begins()
    assert running.begins()
    assert not running.given_up()
    assert running.begins()


@pytest.mark.parametrize("processes", [0, -1, "two", 1.5, True])
def test_processes_that_are_no_number(processes: object) -> None:
    with pytest.raises(ValidationError, match="a whole number from 1, or auto") as info:
        RayConfig.model_validate({"processes": processes})
    assert info.value.error_count() == 1


def test_an_address_is_tried_before_ray_tries_it() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="nothing answers") as info:
            cluster.require_reachable(address)  # bound, and nobody listens
        assert info.value.where == "launcher.address"
        server.listen()
        for reachable in (address, f"ray://{address}", "auto"):
            cluster.require_reachable(reachable)
    for wrong in ("head", "head:port", "http://head:1"):
        with pytest.raises(UserError, match="HOST:PORT"):
            cluster.require_reachable(wrong)


@pytest.mark.parametrize(
    ("options", "there", "said"),
    [
        ({}, {"CPU": 64.0}, "64 processes on 4 cores of this machine take turns"),
        ({"address": "auto", "cpus": 2}, {"CPU": 64.0}, "has 64 cores, and Ray waits until it has 128"),
        ({"address": "auto", "gpus": True}, {"CPU": 64.0, "GPU": 8.0}, "has 8 GPUs, and Ray waits until it has 64"),
        ({"address": "auto"}, {"CPU": 64.0}, ""),
    ],
)
def test_more_processes_than_the_cluster_has_room_for(
    options: dict[str, Any],
    there: dict[str, float],
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    caplog.set_level(logging.WARNING, logger="alignkit")
    cluster.warn_of_little_room(RayConfig(processes=64, **options), 64, bool(options.get("gpus")), there)
    messages = {record.message for record in caplog.records}
    assert [said in message for message in messages] == [True] * bool(said)


def test_a_machine_without_the_gpus_is_refused() -> None:
    with pytest.raises(UserError, match="2 processes, and 1 GPUs here"):
        cluster.warn_of_little_room(RayConfig(processes=2), 2, True, {"CPU": 4, "GPU": 1})


def test_a_folder_that_cannot_be_written_to_is_named_before_ray_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as info:
        RayLauncher(RayConfig(shared_folder=str(tmp_path / "file"))).launch([])
    assert info.value.where == "launcher.shared_folder"


def test_signals_are_kept_from_ray_s_processes_and_reach_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    kept: list[set[int]] = []

    def connect(config: RayConfig) -> None:
        code = "import signal; print(*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
        started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        kept.append(set(map(int, started.stdout.split())))
        os.kill(os.getpid(), signal.SIGTERM)  # while Ray starts

    monkeypatch.setattr(launcher, "connect", connect)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    assert RayLauncher(RayConfig()).launch([]) == 143
    assert kept[0] >= {signal.SIGTERM, signal.SIGHUP}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_is_lost_after_a_signal_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher, "connect", lambda config: None)
    monkeypatch.setattr("ray.shutdown", lambda: None)

    def lost(self: RayLauncher, argv: Any, signals: TakenSignals, shared: Path) -> int:
        signals.came.extend(came)
        raise ActorDiedError

    monkeypatch.setattr(RayLauncher, "_run", lost)
    came = [signal.SIGTERM]
    assert RayLauncher(RayConfig()).launch([]) == 143
    came = []
    with pytest.raises(Fault, match="the Ray cluster is gone"):
        RayLauncher(RayConfig()).launch([])


def test_a_worker_that_was_killed_is_one_line() -> None:
    for failure in (ActorDiedError(), WorkerHealthCheckFailedError("a look at it failed", ActorDiedError())):
        error = WorkerGroupError("thirty\nlines", {1: failure})
        assert launcher.ended_by(error).what == "Ray's worker of process 1 was killed, or its machine is gone"
    assert "a bug" in launcher.ended_by(WorkerGroupError("a bug", {1: ValueError()})).what


def test_without_ray_the_check_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"alignkit\[ray\]"):
        plugin.check(RayConfig(), PluginManager())


@pytest.mark.slow
@pytest.mark.concurrent
def test_a_signal_to_a_cluster_of_two_processes(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "rank_command.py").write_text(Path(rank_command.__file__).read_text())
    code = "from alignkit_plugins.launcher_ray.launcher import RayLauncher\nimport sys\n"
    code += "from alignkit_plugins.launcher_ray.plugin import RayConfig\n"
    code += "sys.exit(RayLauncher(RayConfig(processes=2)).launch(sys.argv[1:]))"
    environment = {**os.environ, "ALIGNKIT_PLUGINS_DIR": str(tmp_path / "plugins")}
    command = [sys.executable, "-c", code, "ranks", "saves:143", "saves:143"]
    launcher = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    until = time.monotonic() + 120
    while not all((tmp_path / f"ready-{rank}").exists() for rank in (0, 1)):
        assert launcher.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    os.killpg(launcher.pid, signal.SIGTERM)  # Ray's own processes too, as `timeout` does
    assert launcher.wait(60) == 143
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in (0, 1)] == ["15", "15"]
    assert not (tmp_path / ".alignkit-ray").exists()
