"""A disk that refuses: the path, what is free, and what to do; whichever library said it."""

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alignkit.engine.storage import WORDS, storage_error
from alignkit.errors import STORAGE, Fault, UserError, storage_errno


@pytest.mark.parametrize(
    ("number", "kind", "what"),
    [
        (errno.ENOSPC, Fault, "the disk is full"),
        (errno.EDQUOT, Fault, "the disk quota is used up"),
        (errno.EIO, Fault, "the disk failed to read or write"),
        (errno.EMFILE, Fault, "too many files are open in this process"),
        (errno.ENFILE, Fault, "too many files are open on this machine"),
        (errno.EROFS, UserError, "the file system is read-only"),
        (errno.EACCES, UserError, "permission denied"),
        (errno.EPERM, UserError, "not permitted"),
    ],
)
def test_each_has_its_words_its_path_and_its_status(number: int, kind: type, what: str, tmp_path: Path) -> None:
    found = storage_error(OSError(number, "said by the system", str(tmp_path / "weights")))
    assert type(found) is kind
    assert found is not None
    assert found.what.startswith(what)
    assert found.where == str(tmp_path / "weights")
    assert "run the same command again" in str(found.hint)
    assert ("MiB are free" in found.what) == (number == errno.ENOSPC)


def test_every_number_has_words() -> None:
    assert set(WORDS) == set(STORAGE)
    assert len(STORAGE) == 8


def test_a_full_device_is_said_with_the_folder_when_the_library_does_not_say_the_file(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left") as caught:
        file.write(b"x")
    found = storage_error(caught.value, tmp_path)
    assert found is not None
    assert found.where == str(tmp_path)
    assert "MiB are free" in found.what


def test_libraries_written_in_rust_say_it_in_their_message_only(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="os error") as caught:
        save_file({"a": torch.zeros(1)}, tmp_path)  # a folder: os error 21
    assert not isinstance(caught.value, OSError)
    assert storage_errno(caught.value) is None
    full = type(caught.value)("I/O error: No space left on device (os error 28)")
    assert storage_errno(full) == errno.ENOSPC
    found = storage_error(full, tmp_path)
    assert found is not None
    assert "(os error 28)" in found.what


def test_sqlite_has_names_of_its_own(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "a.sqlite")
    database.execute("pragma max_page_count = 2")
    database.execute("create table t (x)")
    with pytest.raises(sqlite3.OperationalError, match="full") as caught:
        database.execute("insert into t values (?)", ("x" * 100_000,))
    database.close()
    assert storage_errno(caught.value) == errno.ENOSPC


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no such file", "x"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        PermissionError(errno.EACCES, "of a socket"),
        ValueError("(os error 2)"),
        Fault("the disk is full (os error 28)"),
    ],
)
def test_other_errors_are_none_of_its_business(error: BaseException) -> None:
    assert storage_error(error) is None


def test_too_many_open_files_in_a_real_process() -> None:
    code = """
import resource, sys
from alignkit.engine.storage import storage_error
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
kept = []
try:
    while True:
        kept.append(open("/dev/null"))
except OSError as error:
    kept.clear()
    print(storage_error(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("/dev/null: too many files are open in this process")
