"""Memory does not grow with the file: the most that reading any row takes, measured in a process of its own."""

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
BOUND_MIB = 512
READER = """
import json, logging, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fuzz_worker import Worker, peak_mib
logging.disable()
worker = Worker()
form, file, out = sys.argv[2:]
peak_mib(reset=True)
before = peak_mib()
try:
    summary = worker._step({"format": form, "files": file, "on_bad_row": "skip", "max_bad_share": 1.0}, Path(out))
except Exception as error:
    summary = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps({"mib": peak_mib() - before, "summary": summary}))
"""
GOOD = b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
HEAD = b'{"prompt": "p", "rejected": "b", "chosen": "\xf0\x9f\x98\x80'
Pieces = Callable[[], Iterator[bytes]]


def pieces(*parts: tuple[bytes, int]) -> Pieces:
    """Each part so many times, written one after the other."""
    return lambda: (data for data, times in parts for _ in range(times))


# File, its content, rows and bad rows.
FILES: dict[str, tuple[str, Pieces, int, int]] = {
    "one line of 300 MB": ("x.jsonl", pieces((b'{"prompt": "', 1), (b"x" * MIB, 300), (b'"}\n', 1), (GOOD, 1)), 2, 1),
    "200 MB of zeros in 200 kB": ("x.jsonl.gz", pieces((bytes(MIB), 200), (b"\n" + GOOD, 1)), 2, 1),
    "2 million blank lines": ("x.jsonl.gz", pieces((b"\n" * MIB, 2), (GOOD, 1)), 2 * MIB + 1, 2 * MIB),
    "an array that begins with 100 MB of white space": (
        "x.json.gz",
        pieces((b"[", 1), (b" " * MIB, 100), (GOOD + b"]", 1)),
        1,
        0,
    ),
    "an array whose text never ends": ("x.json", pieces((b"[" + GOOD + b',{"a": "', 1), (b"x" * MIB, 100)), 2, 1),
    "the longest line, four bytes a character": ("x.jsonl", pieces((HEAD + b"x" * (16 * MIB - 60) + b'"}\n', 3)), 3, 0),
    "the longest element of an array": ("x.json", pieces((b"[" + HEAD + b"x" * (16 * MIB - 100) + b'"}]', 1)), 1, 0),
    "the longest line, all values": (
        "x.jsonl",
        pieces((GOOD + b'{"n": [', 1), (b'{"":0},' * 1000, 2300), (b"0]}\n", 1)),
        2,
        1,
    ),
    "as many values as a short line holds": (
        "x.jsonl",
        pieces((GOOD[:-2] + b', "n": [' + b'{"":0},' * 149_000 + b"0]}\n", 5)),
        5,
        0,
    ),
    "nested 5 million deep": ("x.jsonl", pieces((GOOD + b'{"n": ', 1), (b"[" * MIB, 5), (b"\n", 1)), 2, 1),
    "a million short rows": (
        "x.jsonl",
        lambda: (GOOD.replace(b'"a"', b'"%d"' % n) for n in range(1_000_000)),
        1_000_000,
        0,
    ),
}


def measured(folder: Path, form: str, path: Path) -> tuple[float, dict[str, int]]:
    """MiB above what the process had before, and the step's summary."""
    from helpers.fuzzing import FOLDER

    command = [sys.executable, "-c", READER, str(FOLDER), form, str(path), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["mib"], found["summary"]


@pytest.mark.parametrize("case", FILES)
def test_reading_stays_below_the_bound(tmp_path: Path, case: str) -> None:
    name, make, rows, rejected = FILES[case]
    path = tmp_path / name
    with gzip.open(path, "wb", 1) if name.endswith(".gz") else path.open("wb") as file:
        for piece in make():
            file.write(piece)
    mib, summary = measured(tmp_path, "preference", path)
    assert (summary.get("rows"), summary.get("rejected")) == (rows, rejected), summary
    assert 1 < mib < BOUND_MIB


def test_lines_without_an_empty_one_between(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"ab\n" * 6_000_000 + b"\n\nend\n")
    mib, summary = measured(tmp_path, "text", path)
    assert (summary["rows"], summary["rejected"] > 5_000_000) == (6_000_003, True)
    assert 1 < mib < BOUND_MIB / 2


def test_the_bound_of_the_documentation() -> None:
    from helpers.pages import DOCS

    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    assert re.search(rf"at most {BOUND_MIB} MiB", text)
