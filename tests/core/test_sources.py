"""Reading raw rows: what comes out, and the place and problem of everything that cannot be read."""

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data import arrays, lines
from alignkit.data.rows import BadRow, parse_object
from alignkit.data.sources import read_rows
from alignkit.errors import UserError

GOOD = [{"a": 1, "text": "één"}, {"a": 2, "text": "line\u2028separator"}]


def everything(path: Path) -> tuple[list[Any], list[str]]:
    """All rows, and `line: reason` of each bad row: reading goes on behind one."""
    rows, bad = [], []
    source = read_rows(str(path))
    while True:
        try:
            rows.append(next(source).row)
        except BadRow as error:
            file, _, line = str(error.where).rpartition(":")
            bad.append(f"{line}: {error.reason}" if file == str(path) else f"wrong file {file}")
        except StopIteration:
            return rows, bad


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows)


@pytest.mark.parametrize(
    ("name", "array"),
    [("x.jsonl", False), ("x.jsonl.gz", False), ("x.json", False), ("x.json", True), ("x.json.gz", True)],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_json_rows_are_read_with_their_line(tmp_path: Path, name: str, bom: bytes, array: bool) -> None:
    data = bom + (json.dumps(GOOD, indent=1).encode() if array else jsonl(GOOD) + b"\n \n")
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = list(read_rows(str(path)))
    assert [r.row for r in found] == GOOD
    assert [r.where for r in found] == [f"{path}:{n}" for n in ((2, 6) if array else (1, 2))]


def test_text_lines_keep_blank_ones_and_lose_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfone\r\n\ntwo\n") + gzip.compress(b"three"))
    assert [(r.where, r.row) for r in read_rows(str(path))] == [
        (f"{path}:{n}", text) for n, text in enumerate(["one", "", "two", "three"], 1)
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "bad JSON"),
        (b'{"a": NaN}', "bad JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "bad JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "nested too deeply"),
        (b'{"a": [' + b"{}," * 400_000 + b"0]}", "too many values"),
        (b"{" + b",".join(b'"%d":0' % (n % 200_000) for n in range(200_001)) + b"}", "duplicate key"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"a": ["\\u0000"]}', "NUL character"),
        (b'{"a": "\x00"}', "NUL character"),
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"b": {"a": 1, "a": 1}}', "duplicate key"),
        (b"", "blank line"),
        (b"  \t", "blank line"),
        (b'{"a": "' + b"x" * lines.MAX_BYTES + b'"}', "line too long"),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_a_bad_line_is_named_and_the_next_one_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    assert everything(path) == ([{"n": 1}, {"n": 3}], [f"2: {reason}"])


def test_each_blank_line_is_named_once_and_those_at_the_end_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": 1}\n\n\n{"n": 4}\n\n{"n": 6}\n\n\n')
    assert everything(path) == ([{"n": 1}, {"n": 4}, {"n": 6}], [f"{n}: blank line" for n in (2, 5)])
    with pytest.raises(BadRow, match="2 blank lines") as caught:
        list(read_rows(str(path)))
    assert caught.value.rows == 2


def test_a_surrogate_pair_and_an_escaped_backslash_are_no_damage() -> None:
    assert parse_object(r'{"a": "\ud83d\ude00 \\u0000 \\ud800"}') == {"a": "😀 \\u0000 \\ud800"}


def test_a_cut_gzip_file_is_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress(jsonl([{"n": n, "noise": hashlib.sha256(str(n).encode()).hexdigest()} for n in range(2000)]))
    path.write_bytes(whole[: len(whole) // 2])
    rows, bad = everything(path)
    assert rows[0]["n"] == 0
    assert bad == [f"{len(rows) + 1}: damaged gzip"]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.txt.gz"])
def test_a_file_that_is_not_gzip_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"a": 1}\n')
    assert everything(path) == ([], ["1: wrong kind of file"])


@pytest.mark.parametrize(
    ("text", "rows", "bad"),
    [
        ("[]", 0, []),
        ('[{"a": 1},\n 3,\n {"a": 2}]', 2, ["2: not an object"]),
        ('[{"a": 1},\n {"a": 1, "a": 2}]', 1, ["2: duplicate key"]),
        ('[{"a": 1},\n {"a": }]', 1, ["2: bad JSON"]),
        ('[{"a": 1}\n {"a": 2}]', 1, ["2: bad JSON"]),
        ('[{"a": 1}', 1, ["1: bad JSON"]),
        ("[1", 0, ["1: bad JSON"]),
        ('[{"a": 1}]\n{"a": 2}', 1, ["2: bad JSON"]),
    ],
)
def test_damaged_arrays(tmp_path: Path, text: str, rows: int, bad: list[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    found, problems = everything(path)
    if text == "[1":  # the element is reported, then the missing bracket
        problems = problems[1:]
    assert (len(found), problems) == (rows, bad)


@given(rows=st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=9)), max_size=8))
def test_an_array_is_the_same_however_it_is_cut_into_pieces(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    rows = json.loads(json.dumps(rows).replace("\\u0000", "."))
    path = tmp_path_factory.mktemp("array") / "x.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "CHUNK", 3)
        assert [r.row for r in arrays.json_array_rows(path) if not isinstance(r, BadRow)] == rows


@given(rows=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9)), max_size=8))
def test_what_json_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    rows = json.loads(json.dumps(rows).replace("\\u0000", "."))
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(jsonl(rows))
    assert everything(path) == (rows, [])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x.json"
    with path.open("w") as file:
        file.write("[")
        for n in range(30_000):
            file.write(f'{"," if n else ""}{{"text": "{"x" * 990}"}}\n')
        file.write("]")
    tracemalloc.start()
    assert sum(1 for _ in read_rows(str(path))) == 30_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 30_000_000
    assert peak < 8_000_000


def test_parquet_rows_and_a_damaged_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"a": n, "m": [{"role": "user"}]} for n in range(3000)]), path)
    found = list(read_rows(str(path)))
    assert [r.row["a"] for r in found] == list(range(3000))
    assert found[2999] == (f"{path}:3000", {"a": 2999, "m": [{"role": "user"}]})
    path.write_bytes(path.read_bytes()[:-100])
    assert everything(path) == ([], ["1: damaged parquet"])
    parquet.write_table(pyarrow.Table.from_pylist([{"a": "x"}, {"a": "\0"}]), path)
    assert everything(path) == ([{"a": "x"}], ["2: NUL character"])


def test_a_folder_is_read_by_name_and_other_files_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(jsonl([{"file": name}]))
    (tmp_path / "notes.md").write_text("not data")
    (tmp_path / ".hidden.jsonl").write_text("not data")
    assert [r.row["file"] for r in read_rows(str(tmp_path))] == ["a.jsonl", "b.jsonl"]
    assert "notes.md is left out" in caplog.text


@pytest.mark.parametrize("source", ["missing.jsonl", "data/missing.jsonl", "./owner/name", "name", "a/b/c"])
def test_a_missing_file_is_not_taken_for_a_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        read_rows(source)


def test_unknown_kinds_and_empty_folders_are_errors(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="unknown kind of file"):
        read_rows(str(tmp_path / "x.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data file in this folder"):
        read_rows(str(tmp_path / "empty"))


class FakeDatasets:
    """Stands in for the library: `answer` is returned, or raised."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    def load_dataset(self, name: str, config: str | None, split: str | None = None) -> Any:
        self.asked.append((name, config, split))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_hub_names_go_to_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDatasets([{"a": 1}, {"a": 2}])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = list(read_rows("owner/some-name:config", "train"))
    assert fake.asked == [("owner/some-name", "config", "train")]
    assert [(r.where, r.row) for r in found] == [
        ("owner/some-name:config[train]:1", {"a": 1}),
        ("owner/some-name:config[train]:2", {"a": 2}),
    ]


def test_hub_splits_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets({"train": [{"a": 1}]}))
    assert [r.where for r in read_rows("owner/name")] == ["owner/name[train]:1"]
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets({"train": [], "test": []}))
    with pytest.raises(UserError, match="test, train"):
        next(read_rows("owner/name"))
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets(ConnectionError("offline\nlong trace")))
    with pytest.raises(UserError, match="ConnectionError: offline\n  -> check name") as caught:
        next(read_rows("owner/name:config"))
    assert caught.value.where == "owner/name:config"
