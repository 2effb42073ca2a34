"""Files that are something else than their names say, and files that end too early."""

import bz2
import gzip
import json
import logging
import lzma
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError

ROWS = b'{"n": 1}\n{"n": 2}\n'


def reading(path: Path) -> tuple[list[Any], list[BadRow]]:
    rows, bad = [], []
    source = read_rows(str(path))
    while True:
        try:
            rows.append(next(source).row)
        except BadRow as error:
            bad.append(error)
        except StopIteration:
            return rows, bad


def zipped(data: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.jsonl", data)
    return out.getvalue()


def parquet(data: bytes) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2]}), out)
    return out.getvalue()


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".txt"])
@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (gzip.compress, "this is a gzip file: end its name with .gz"),
        (bz2.compress, "this is a bzip2 file: unpack it"),
        (lzma.compress, "this is an xz file: unpack it"),
        (zipped, "this is a zip archive: unpack it"),
        (parquet, "this is a Parquet file: end its name with .parquet"),
        (lambda data: data.decode().encode("utf-16"), "this is text in UTF-16: save it as UTF-8"),
        (lambda data: data.decode().encode("utf-32"), "this is text in UTF-32: save it as UTF-8"),
        (lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be"), "this is text in UTF-16: save it as UTF-8"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "this is a zstandard file: unpack it"),
    ],
)
def test_a_file_of_another_kind_is_one_complaint_with_advice(
    tmp_path: Path, ending: str, make: Callable[[bytes], bytes], advice: str
) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(make(ROWS))
    rows, bad = reading(path)
    assert rows == []
    assert [(b.where, b.problem, b.ends_file) for b in bad] == [
        (f"{path}:1", f"{advice}; none of its rows is read", True)
    ]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".json.gz", ".txt.gz"])
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (ROWS, "this is no gzip file: take .gz off its name"),
        (b"", "the gzip file is empty: it was cut off"),
        (gzip.compress(gzip.compress(ROWS, mtime=0), mtime=0), "this is a gzip file: end its name with .gz"),
        (gzip.compress(ROWS, mtime=0)[:5], "the gzip file is cut off"),
    ],
)
def test_gzip_in_name_only(tmp_path: Path, ending: str, data: bytes, problem: str) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(data)
    rows, bad = reading(path)
    assert (rows, len(bad)) == ([], 1)
    assert bad[0].problem.startswith(problem)
    assert bad[0].ends_file


@pytest.mark.parametrize("array", [False, True])
def test_damage_at_the_end_of_gzip_costs_no_row_before_it(tmp_path: Path, array: bool) -> None:
    data = json.dumps([{"n": n} for n in range(50_000)], indent=0).encode() if array else ROWS
    packed = gzip.compress(data, mtime=0)
    for damaged in (packed[:-8] + b"12345678", packed + b"tail", packed[:-3]):
        path = tmp_path / "x.json.gz"
        path.write_bytes(damaged)
        rows, bad = reading(path)
        assert len(rows) == (50_000 if array else 2)
        assert [(b.reason, b.ends_file) for b in bad] == [("damaged gzip", True)]


def test_rows_before_the_cut_of_a_gzipped_array_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    noise = [{"n": n, "noise": os.urandom(30).hex()} for n in range(20_000)]
    data = json.dumps(noise, separators=(",\n", ":")).encode()
    packed = gzip.compress(data, mtime=0)
    path.write_bytes(packed[: len(packed) * 3 // 4])
    rows, bad = reading(path)
    assert rows == noise[: len(rows)]
    assert len(rows) > 14_000
    assert bad[0].ends_file
    # the place is that of the first row that is missing
    line = int(str(bad[0].where).rpartition(":")[2])
    assert data.split(b"\n")[line - 1].lstrip(b"[") in (
        b'{"n":%d,' % len(rows),
        b'"noise":"%b"},' % noise[len(rows)]["noise"].encode(),
    )


def test_one_bad_byte_in_an_array_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"n": 1},\n{"n": "\xff"},\n{"n": "\xc3\xa9"},\n{"n": ' + b"9" * 5000 + b"},\n{}]")
    rows, bad = reading(path)
    assert rows == [{"n": 1}, {"n": "é"}, {}]
    assert [(str(b.where), b.problem[:20], b.ends_file) for b in bad] == [
        (f"{path}:2", "not UTF-8: byte 0xff", False),
        (f"{path}:4", "not usable JSON: a w", False),
    ]


def test_broken_syntax_in_an_array_says_that_the_rest_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"n": 1},\n{"n": },\n{"n": 3}]')
    rows, (bad,) = reading(path)
    assert rows == [{"n": 1}]
    assert (bad.where, bad.ends_file) == (f"{path}:2", True)
    assert bad.problem == "not valid JSON: Expecting value; the rows from here on are lost"


def test_parquet_rows_that_python_cannot_hold_cost_themselves_only(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    data = pyarrow.array([b"a", b"\xff", b"c"] * 20)
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 60, data.buffers())
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"t": texts}), path)
    rows, bad = reading(path)
    assert rows == [{"t": "a"}, {"t": "c"}] * 20
    assert [b.where for b in bad] == [f"{path}:{n}" for n in range(2, 60, 3)]
    assert {b.reason for b in bad} == {"not UTF-8"}


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["a", "a"]), path)
    rows, (bad,) = reading(path)
    assert (rows, bad.reason, bad.ends_file) == ([], "duplicate key", True)


def test_an_empty_file_among_others_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c").mkdir()
    (tmp_path / "d.jsonl").symlink_to(tmp_path / "gone")
    with caplog.at_level(logging.WARNING, "alignkit"):
        assert len(reading(tmp_path)[0]) == 2
    assert "b.jsonl holds no row" in caplog.text
    assert "c is left out: only files of this folder are read" in caplog.text
    assert "d.jsonl is left out" in caplog.text


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-this-name/x.jsonl", "a\0b.jsonl", "\ud800.jsonl"])
def test_odd_paths_are_mistakes(source: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(source)
    str(caught.value).encode()


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "x.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_rows(str(pipe))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ('[{"n": 1},\n{"n": 2}]', "end its name with .json"),
        ('\ufeff[\n  {\n    "n": 1\n  }\n]\n', "end its name with .json"),
        ('{\n  "data": [{"n": 1}]\n}\n', "write one object a line"),
        ("prompt,chosen,rejected\na,b,c\n", "this looks like a table (CSV): convert it"),
        ('"prompt";"the answer"\r\n"a";"b"\r\n', "this looks like a table (CSV): convert it"),
        ("prompt\tchosen\n", "this looks like a table (CSV): convert it"),
    ],
)
def test_lines_that_are_another_layout_are_one_complaint_with_advice(tmp_path: Path, text: str, advice: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    rows, (bad,) = reading(path)
    assert rows == []
    assert (bad.where, bad.reason, bad.ends_file) == (f"{path}:1", "wrong kind of file", True)
    assert advice in bad.problem


@pytest.mark.parametrize("first", ["[]", "{", '[{"n": 1}]', "hello", "true", '"a", "b', '[{"n": 1}, 2]'])
def test_one_broken_line_is_no_other_layout(tmp_path: Path, first: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{first}\n{{"n": 2}}\n')
    rows, bad = reading(path)
    assert rows == [{"n": 2}]
    assert not any(b.ends_file for b in bad)
    assert bad[0].problem.endswith("whose name ends with .json") is first.startswith("[{")


def test_a_last_line_without_its_end_seems_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    cut = '{"n": 1}\n{"n": "abc'
    for end, said in (("", True), ("\n", False)):
        path.write_text(cut + end)
        rows, (bad,) = reading(path)
        assert rows == [{"n": 1}]
        assert bad.problem.startswith("not valid JSON: Unterminated string starting at column 7")
        assert ("seems cut off" in bad.problem) is said


def test_a_table_is_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="unknown kind of file") as caught:
        reading(tmp_path / "x.csv")
    assert "convert it to one JSON object a line" in str(caught.value.hint)


def test_messages_are_in_our_words(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{}\n{"a": ' + b"9" * 5000 + b'}\n{"a": "\xe9"}\n')
    rows, bad = reading(path)
    assert rows == [{}]
    assert bad[0].problem == "not usable JSON: a whole number of more than 4,300 digits"
    assert bad[1].problem.endswith("; if the file is in Latin-1 or Windows-1252, save it as UTF-8")
