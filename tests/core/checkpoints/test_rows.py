"""Rows that a step adds to a file stand there once, however often it is interrupted."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignkit.checkpoints import Checkpoints, RowFile
from alignkit.recipe.model import CheckpointOptions

FILE = "odd.jsonl"
OPTIONS = CheckpointOptions(seconds=None, steps=2)
WHOLE = [f'{{"n": {n}}}' for n in range(1, 8)]


def rows(folder: Path) -> list[str]:
    return (folder / FILE).read_text().splitlines()


def work(folder: Path, loops: Sequence[int], killed_at: tuple[int, int] | None = None) -> None:
    """A step with loops of so many iterations; each adds a row. A checkpoint behind every second one."""
    checkpoints = Checkpoints(folder / "checkpoints", OPTIONS)
    n = 0
    for number, count in enumerate(loops):
        file = checkpoints.rows(FILE)
        with checkpoints.loop() as loop:
            state = loop.restored()
            done = 0 if state is None else state["done"]
            n += done
            for i in range(done + 1, count + 1):
                n += 1
                file.append([{"n": n}])
                if (number, i) == killed_at:
                    raise SystemExit
                loop.safe_point(i, lambda i=i: {"done": i})  # type: ignore[misc]


@pytest.mark.parametrize("killed_at", [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3)])
def test_each_row_stands_there_once_wherever_the_step_was_killed(killed_at: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        work(tmp_path, [4, 3], killed_at)
    work(tmp_path, [4, 3])
    assert rows(tmp_path) == WHOLE


def test_rows_that_do_not_come_again_are_gone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        work(tmp_path, [4], (0, 3))
    checkpoints = Checkpoints(tmp_path / "checkpoints", OPTIONS)
    checkpoints.rows(FILE)
    with checkpoints.loop() as loop:
        assert loop.restored() == {"done": 2}
    assert rows(tmp_path) == WHOLE[:2]


def test_when_all_checkpoints_are_damaged_the_file_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        work(tmp_path, [4], (0, 3))
    (tmp_path / "checkpoints/1-00000002/state.json").unlink()
    work(tmp_path, [4, 3])
    assert rows(tmp_path) == WHOLE


def test_a_row_that_was_cut_off_in_the_middle_is_written_over(tmp_path: Path) -> None:
    file = RowFile(tmp_path / FILE)
    file.append([{"n": 1}])
    with file.path.open("a") as half:
        half.write('{"n": 2, "text": "longer than what follows, and without an end')
    file.append([{"n": 2}, {"n": 3}])
    assert rows(tmp_path) == WHOLE[:3]


def test_lost_rows_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = RowFile(tmp_path / FILE)
    file.append([{"n": 1}])
    file.path.write_text("")
    with caplog.at_level(logging.WARNING, "alignkit"):
        file.cut()
    assert "has lost its last 9 bytes" in caplog.text
    assert not file.path.exists()


def test_a_lone_surrogate_is_an_escape(tmp_path: Path) -> None:
    RowFile(tmp_path / FILE).append([{"text": "a\ud800ä"}])
    assert rows(tmp_path) == ['{"text": "a\\ud800ä"}']
