"""Folders that cannot be written, disks that are full, and two runs in one folder: clear errors, nothing lost."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from alignkit.engine.lock import locked
from alignkit.engine.storage import storage_error
from alignkit.errors import AlignkitError, UserError
from helpers.interrupted import LAST, STEP, Interrupter, Training

A, B = "id: a, step: write, rows: 3", 'id: b, step: write, source: "@a"'


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leave not a byte."""
        with (self.folder / "filler").open("wb", buffering=0) as file:
            for size in (2**20, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        assert os.statvfs(self.folder).f_bavail == 0

    def free(self) -> None:
        """Give it back."""
        (self.folder / "filler").unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse every change inside."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """64 MiB of memory, mounted as a file system; for that one has to be root, and allowed to."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    monkeypatch.chdir(tmp_path)
    try:
        yield Disk(folder)
    finally:
        os.chdir(tmp_path)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # files of a failed run may be open


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run that had room enough."""
    training = Training(tmp_path_factory.mktemp("whole"))
    here = Path.cwd()
    training.run(*BY_STEPS)
    os.chdir(here)
    return training


BY_STEPS = ("checkpoints={seconds: null, steps: 4}",)
# What the disk is full for -> (how it comes to that, row that the next run begins with)
FULL: dict[str, tuple[Callable[[Disk], Interrupter], int]] = {
    "a checkpoint": (lambda disk: Interrupter(8, disk.fill), 5),
    "the first metrics": (lambda disk: Interrupter(at_start=disk.fill), 1),
    "a model": (lambda disk: Interrupter(at_close=disk.fill), LAST + 1),
    "the last rows": (lambda disk: Interrupter(LAST, disk.fill), 13),
}


def explained(error: BaseException, folder: Path | None = None) -> AlignkitError:
    """What the engine makes of an error in a step's folder, or the command line of one elsewhere."""
    found = error if isinstance(error, AlignkitError) else storage_error(error, folder)
    assert found is not None
    return found


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    case: str, disk: Disk, whole: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, first = FULL[case]
    training = Training(disk.folder / "work")
    if case == "a model":  # trackers are closed behind it, so the disk is filled where the training loop ends
        from alignkit.training import tokens

        steps = tokens.train_steps

        def then_full(*arguments: Any, **options: Any) -> int:
            done = steps(*arguments, **options)
            if training.step_folder.exists():
                disk.fill()
            return done

        with monkeypatch.context() as patch:
            patch.setattr(tokens, "train_steps", then_full)
            error = failed(training, Interrupter())
    else:
        error = failed(training, make(disk))
    assert error.exit_status == 4, error
    assert "No space left on device" in str(error) or "the disk is full" in str(error)
    assert "free space" in str(error.hint)
    assert "r1/03-sft" in str(error.where)
    before = training.checkpoints()
    assert before == {5: ["1-00000004"], 1: [], LAST + 1: ["1-00000012", "1-00000016"], 13: before}[first]
    disk.free()
    rows = training.run(*BY_STEPS)
    assert rows[:1] == ([(STEP, first)] if first <= LAST else [])
    assert training.content() == whole.content()


def failed(training: Training, interrupter: Interrupter) -> AlignkitError:
    """The error that the run ends with."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  (of several types, as libraries have their own)
        training.run(*BY_STEPS, interrupter=interrupter)
    return explained(caught.value, training.step_folder)


def test_a_manifest_that_does_not_fit(disk: Disk, whole: Training) -> None:
    training = Training(disk.folder / "work")
    error = failed(training, Interrupter(at_close=disk.fill))  # the last thing before the manifest
    assert error.exit_status == 4
    assert "manifest.json" in str(error.where)
    assert '"started"' in (training.step_folder / "manifest.json").read_text()
    assert training.checkpoints() == ["1-00000012", "1-00000016"]
    disk.free()
    assert training.run(*BY_STEPS) == []
    assert training.content() == whole.content()


def test_a_read_only_file_system(disk: Disk, bench: Any) -> None:
    bench.folder = disk.folder
    bench.recipe(A, B)
    with disk.read_only(), pytest.raises(UserError, match="cannot write there") as caught:
        bench.run()
    assert "set output=FOLDER" in str(caught.value.hint)
    assert sorted(bench.files()) == ["small.yaml"]
    bench.run()
    before = bench.files()
    with disk.read_only(), pytest.raises(UserError, match="cannot write there"):
        bench.run("b.text=x", start_from="b")
    assert bench.files() == before
    with pytest.raises(UserError, match="holds the old result"):
        bench.run("b.text=x")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_the_run_s_folder(error: int, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.recipe(A)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error), str(bench.run_folder))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(OSError, match=os.strerror(error)) as caught:
            bench.run()
    assert explained(caught.value).exit_status == 4
    bench.run()


PLACES = {
    "output": "runs",
    "the run": "runs/small",
    "a round": "runs/small/r1",
    "a step": "runs/small/r1/02-b",
}


@pytest.mark.parametrize("case", PLACES)
def test_a_file_where_a_folder_must_be(case: str, bench: Any) -> None:
    bench.recipe(A, B)
    path = bench.folder / PLACES[case]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = bench.files()
    with pytest.raises(UserError, match=r"cannot write there|has to be a folder of the run") as caught:
        bench.run()
    assert str(bench.folder / "runs") in str(caught.value.where)
    assert bench.runs() == []
    assert {name: data for name, data in bench.files().items() if not name.endswith(".lock")} == before
    path.unlink()
    bench.run()


@pytest.mark.parametrize("case", ["output", "the run", "a round", "a step"])
def test_a_folder_without_the_right_to_write(case: str, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.recipe(A, B)
    bench.run()
    before = bench.files()
    path = bench.folder / PLACES[case]
    path.chmod(0o555)
    access = os.access
    if os.geteuid() == 0:  # who may do everything: what the system would say to others
        monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != path and access(p, mode))
    if os.geteuid() == 0 and case == "output":
        pytest.skip("root may write there")
    try:
        with pytest.raises(UserError, match="cannot write there"):
            bench.run("name=other" if case == "output" else "b.text=hello", start_from=None)
    finally:
        path.chmod(0o755)
    assert bench.files() == before


def test_a_refused_run_leaves_no_folder_that_it_made(bench: Any) -> None:
    bench.recipe(A, 'id: b, step: write, source: "@latest"')
    folder = bench.folder / "deep/er/runs"
    with pytest.raises(UserError), locked(folder / "small"):
        raise UserError("refused")
    assert not (bench.folder / "deep").exists()
    (bench.folder / "deep").mkdir()
    (bench.folder / "deep/mine").write_text("x")
    with pytest.raises(UserError), locked(folder / "small"):
        raise UserError("refused")
    assert [p.name for p in (bench.folder / "deep").iterdir()] == ["mine"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(number: int, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.recipe(A)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(UserError, match="this file system has no file locks") as caught:
            bench.run()
    assert "set output=FOLDER on a local disk" in str(caught.value.hint)
    assert sorted(p.name for p in bench.folder.iterdir()) == ["small.yaml"]
    bench.run()


@pytest.mark.concurrent
def test_a_second_run_is_refused_and_the_first_is_not_harmed(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run("name=whole")
    child = holding(bench)
    try:
        before = bench.files()
        for overrides, options in (((), {}), (("b.text=x",), {"start_from": "b"})):
            with pytest.raises(UserError, match="another alignkit run works in this folder"):
                bench.run(*overrides, **options)
        assert bench.files() == before
        bench.run("name=beside")
    finally:
        (bench.folder / "go").touch()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bench.text("r1/02-b") == "hello1>hello1"


@pytest.mark.concurrent
def test_the_lock_of_a_killed_run_is_free(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run("name=whole")
    child = holding(bench)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (bench.run_folder / ".lock").is_file()
    (bench.folder / "go").touch()
    bench.run()
    assert bench.text("r1/02-b") == "hello1>hello1"


@pytest.mark.concurrent
def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def remove_before(*arguments: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        flock(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", remove_before)
        with pytest.raises(UserError, match="has just removed this folder"), locked(tmp_path / "run"):
            pytest.fail("two runs could be here")
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


@pytest.mark.concurrent
def test_a_folder_that_another_run_took_at_the_same_moment_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    with ExitStack() as others:

        def too_late(*arguments: Any) -> None:
            other = others.enter_context((tmp_path / "run/.lock").open())
            flock(other, fcntl.LOCK_EX)
            flock(*arguments)

        monkeypatch.setattr(fcntl, "flock", too_late)
        with pytest.raises(UserError, match="another alignkit run works"), locked(tmp_path / "run"):
            pytest.fail("two runs could be here")
        assert (tmp_path / "run/.lock").is_file()


def holding(bench: Any) -> int:
    """A process that works in the run's folder until the file `go` is there."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            original = os.fsync

            def wait(handle: Any) -> None:
                original(handle)
                (bench.folder / "holds").touch()
                while not (bench.folder / "go").exists():
                    time.sleep(0.02)

            os.fsync = wait  # type: ignore[assignment]
            bench.run()
            status = 0
        finally:
            os._exit(status)
    while not (bench.folder / "holds").exists():
        time.sleep(0.02)
    return child
