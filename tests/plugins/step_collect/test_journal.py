"""A journal gives back every row that was written whole, and nothing else, wherever it was cut or damaged."""

import errno
import math
import os
import resource
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from alignkit_plugins.step_collect.journal import Journal

ROWS: list[Any] = [[1, math.inf, 0.1 + 0.2], "é\n\u2028 ] \ud800", {"a": None}, []]


def rows(path: Path, about: str = "x") -> list[Any]:
    with closing(Journal(path, about)) as journal:
        return list(journal.rows())


def write(path: Path, *wanted: Any) -> bytes:
    with closing(Journal(path, "x")) as journal:
        for row in wanted:
            journal.append(row)
    return path.read_bytes()


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write(tmp_path / "j", *ROWS[:2])
    write(tmp_path / "j", *ROWS[2:])
    assert rows(tmp_path / "j") == ROWS


def test_wherever_it_is_cut_the_whole_rows_stay_and_more_can_be_added(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = write(path, *ROWS)
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == len(ROWS) + 1
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = max(0, sum(end <= length for end in ends) - 1)
        write(path, "more")
        assert rows(path) == [*ROWS[:kept], "more"], length


@pytest.mark.parametrize("change", ["a bit", "zeros", "a line"])
def test_what_is_damaged_is_cut_off_and_said(tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j"
    whole = write(path, *ROWS)
    lines = whole.splitlines(keepends=True)
    third = len(lines[0] + lines[1])
    damaged = bytearray(whole)
    if change == "a bit":
        damaged[third + 25] ^= 1
    elif change == "zeros":  # what some file systems leave after a power cut
        damaged[third:] = bytes(len(whole) - third)
    else:
        damaged[third:third] = b"# somebody's note\n"
    path.write_bytes(bytes(damaged))
    assert rows(path) == ROWS[:1]
    assert f"{path}:3" in caplog.text
    assert rows(path) == ROWS[:1]


def test_what_follows_a_damaged_row_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = bytearray(write(path, "a", "b", "c"))
    whole[whole.index(b'"b"') + 1] = ord("x")
    path.write_bytes(bytes(whole))
    write(path, "d")  # as long as the row that was damaged, so that it ends where "c" begins
    assert rows(path) == ["a", "d"]


def test_a_journal_about_something_else_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j"
    write(path, *ROWS)
    assert rows(path) == ROWS
    assert not caplog.text
    assert rows(path, "y") == []
    assert "begun anew" in caplog.text
    assert rows(path, "y") == []


def test_only_the_first_rows_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "j", *ROWS)
    with closing(Journal(tmp_path / "j", "x")) as journal:
        journal.keep(1)
        journal.append("other")
        assert list(journal.rows()) == [ROWS[0], "other"]
        assert len(journal) == 2


@pytest.mark.concurrent
def test_what_append_returned_for_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "j"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        journal = Journal(path, "x", sync_seconds=1000)
        for number in range(10**6):
            journal.append([number, "text" * number])
            os.write(writer, b".")
    told = 0
    while told < 20:
        told += len(os.read(reader, 1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writer)
    told += sum(len(more) for more in iter(lambda: os.read(reader, 4096), b""))
    os.close(reader)
    found = rows(path)
    assert found == [[n, "text" * n] for n in range(len(found))]
    assert len(found) >= told


@pytest.mark.concurrent
def test_a_full_disk_leaves_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "j"
    child = os.fork()
    if child == 0:  # a limit of the process: the write is cut in the middle, as on a full disk
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            with closing(Journal(path, "x")) as journal:
                journal.append("a" * 500)
                journal.append("b" * 500)
        except OSError as error:
            status = 0 if error.errno == errno.EFBIG else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.stat().st_size == 1000
    assert rows(path) == ["a" * 500]
