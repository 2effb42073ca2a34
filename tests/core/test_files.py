"""Files appear complete or not at all; what is hashed is the same everywhere."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from alignkit import files
from alignkit.files import (
    atomic_folder,
    atomic_write,
    digest,
    fingerprint,
    json_safe,
    read_json,
    remove_left_overs,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file.txt"
    with atomic_write(path) as file:
        file.write("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:  # noqa: PT012
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_get_the_permissions_the_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        with atomic_write(tmp_path / "f") as file:
            file.write("x")
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_lines_end_the_same_everywhere(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "f") as file:
        file.write("ä\n")
    assert (tmp_path / "f").read_bytes() == b"\xc3\xa4\n"


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("one", "two"):
        with atomic_folder(path) as temp:
            (temp / name).write_text(name)
        assert [p.name for p in path.iterdir()] == [name]
    with pytest.raises(OSError, match="disk"), atomic_folder(path) as temp:  # noqa: PT012
        (temp / "three").write_text("half")
        raise OSError("disk")
    assert [p.name for p in path.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_left_overs_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / ".hidden", tmp_path / "plain.tmp", tmp_path / "sub" / "file"]
    gone = [tmp_path / ".a.json.x1.tmp", tmp_path / "sub" / ".model.tmp" / "weights"]
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    remove_left_overs(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_json_has_no_nan_and_python_numbers_only(tmp_path: Path) -> None:
    data = {1: [float("nan"), float("-inf"), np.float32(0.5), np.int64(2), np.bool_(True), True, None, "ä", (1,)]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "f.json", data)  # numpy's bool is no number
    data[1].pop(4)
    write_json(tmp_path / "f.json", data)
    assert read_json(tmp_path / "f.json") == {"1": [None, None, 0.5, 2, True, None, "ä", [1]]}
    assert type(read_json(tmp_path / "f.json")["1"][3]) is int
    assert "NaN" not in (tmp_path / "f.json").read_text()
    assert json_safe(True) is True
    json.dumps(json_safe(data[1]))


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    one, two = digest({"a": 1, "b": [2, "ä"]}), digest({"b": [2, "ä"], "a": 1})
    assert one == two
    assert one == hashlib.sha256('{"a":1,"b":[2,"ä"]}'.encode()).hexdigest()
    assert one != digest({"a": 1, "b": ["ä", 2]})


def test_fingerprint_is_the_content_for_small_files_and_the_time_for_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert fingerprint(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(files, "HASHED_BYTES", 2)
    os.utime(path, ns=(5, 5))
    assert fingerprint(path) == "3-5"
