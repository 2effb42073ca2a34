"""The launcher `torchrun` with real processes, and what it tells torch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from alignkit.errors import Fault
from alignkit_plugins.launcher_torchrun import launcher as torchrun
from alignkit_plugins.launcher_torchrun import rank
from alignkit_plugins.launcher_torchrun.launcher import Torchrun, processes_here, settings
from alignkit_plugins.launcher_torchrun.plugin import TorchrunConfig
from helpers import rank_command

TWO = TorchrunConfig(processes=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the command `ranks`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "rank_command.py").write_text(Path(rank_command.__file__).read_text())
    monkeypatch.setenv("ALIGNKIT_PLUGINS_DIR", str(tmp_path / "plugins"))
    return tmp_path


def test_one_machine_takes_a_free_port_and_starts_nothing_again(tmp_path: Path) -> None:
    config = settings(TWO, tmp_path)
    assert (config.nproc_per_node, config.min_nodes, config.max_nodes, config.max_restarts) == (2, 1, 1, 0)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "localhost:0")
    assert config.run_id != settings(TWO, tmp_path).run_id
    assert config.logs_specs is not None
    assert Path(config.logs_specs.root_log_dir).is_relative_to(tmp_path)


def test_several_machines_meet(tmp_path: Path) -> None:
    config = settings(TorchrunConfig(processes=8, nodes=4, rendezvous="first:29400", id="mine"), tmp_path)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.run_id) == (4, 4, 8, "mine")
    assert (config.rdzv_backend, config.rdzv_endpoint, config.local_addr) == ("c10d", "first:29400", None)
    numbered = settings(TorchrunConfig(processes=8, nodes=4, rendezvous="first:29400", node_rank=3), tmp_path)
    assert (numbered.rdzv_backend, numbered.rdzv_configs["rank"]) == ("static", 3)


@pytest.mark.parametrize("gpus", [0, 4])
def test_auto_is_a_process_for_each_gpu(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert processes_here(TorchrunConfig()) == max(1, gpus)


@pytest.mark.parametrize(
    "options",
    [{"nodes": 2}, {"nodes": 2, "rendezvous": "host"}, {"processes": 0}, {"node_rank": 1}, {"processes": "all"}],
)
def test_options_that_cannot_work(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as info:
        TorchrunConfig.model_validate(options)
    assert info.value.error_count() == 1


def test_a_rendezvous_without_a_port_says_what_it_should_be() -> None:
    with pytest.raises(ValidationError, match="HOST:PORT"):
        TorchrunConfig.model_validate({"nodes": 2, "rendezvous": "first"})


def test_a_signal_while_another_is_answered_ends_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(argv: list[str]) -> None:
        raise KeyboardInterrupt

    ignored: list[int] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("alignkit.cli.main", again)
    monkeypatch.setattr("signal.signal", lambda number, handler: ignored.append(number))
    assert rank.main(tmp_path, []) == 0
    assert (tmp_path / "1.status").read_text() == "130"
    assert {signal.SIGINT, signal.SIGTERM} <= set(ignored)


@pytest.mark.slow
@pytest.mark.concurrent
def test_each_process_knows_its_place_and_gets_the_arguments_as_they_are(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Torchrun(TWO).launch(["ranks", "tells $$x ${local_rank}", "tells"]) == 0
    told = sorted((json.loads(line) for line in capfd.readouterr().out.splitlines()), key=lambda one: one["RANK"])
    assert [one["RANK"] for one in told] == [one["LOCAL_RANK"] for one in told] == ["0", "1"]
    assert {one["WORLD_SIZE"] for one in told} == {"2"}
    assert len({(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in told}) == 1
    assert told[0]["end"] == "tells $$x ${local_rank}"
    cores = len(os.sched_getaffinity(0))
    assert {one["OMP_NUM_THREADS"] for one in told} == {str(max(1, cores // 2))}
    assert "OMP_NUM_THREADS" not in os.environ


def test_more_processes_than_cores_are_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torchrun, "cores", lambda: 4)
    for processes, said in ((4, ""), (64, "64 processes on 4 cores of this machine take turns")):
        torchrun.warn_of_little_room(processes)
        assert said in caplog.text
        assert bool(said) == bool(caplog.records)


@pytest.mark.slow
@pytest.mark.concurrent
@pytest.mark.parametrize(("ends", "status"), [(("3", "3"), 3), (("stuck", "2"), 2), (("4", "stuck"), 4)])
def test_the_run_s_status_comes_through(ends: tuple[str, ...], status: int, folder: Path) -> None:
    assert Torchrun(TWO).launch(["ranks", *ends]) == status


@pytest.mark.slow
@pytest.mark.concurrent
def test_a_killed_process_ends_the_others_and_is_a_fault(folder: Path) -> None:
    with pytest.raises(Fault, match="process 1 of the run was killed by SIGKILL"):
        Torchrun(TWO).launch(["ranks", "stuck", "killed"])


@pytest.mark.slow
@pytest.mark.concurrent
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_all_and_the_slower_one_may_save(number: signal.Signals, status: int, folder: Path) -> None:
    code = "from alignkit_plugins.launcher_torchrun.{0} import {1}\n"
    code = code.format("launcher", "Torchrun") + code.format("plugin", "TorchrunConfig") + "import sys\n"
    code += "sys.exit(Torchrun(TorchrunConfig(processes=2)).launch(sys.argv[1:]))"
    launcher = subprocess.Popen([sys.executable, "-c", code, "ranks", f"saves:{status}", f"saves:{status}"])
    until = time.monotonic() + 60
    while not all((folder / f"ready-{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < until
        time.sleep(0.05)
    launcher.send_signal(number)
    assert launcher.wait(60) == status
    # Each of them once: the one that saves for longer is not told to hurry when the other has ended.
    assert [(folder / f"saved-{rank}").read_text() for rank in (0, 1)] == [str(int(number))] * 2
