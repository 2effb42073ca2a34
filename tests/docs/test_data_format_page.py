"""The page's format that joins rows, run by the reader of the `data` step: no row is lost and each has its place."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignkit.data.rows import BadRow
from alignkit.manager import PluginManager, PluginStatus, Registered
from alignkit.records import PreferencePair
from alignkit_plugins.step_data.reading import read_records, rows_of
from helpers.pages import DOCS, write_files

ROWS = {
    "a.jsonl": [
        {"question": "lone", "answer": "yes", "good": True},
        {"question": "far", "answer": "right", "good": True},
        {"question": "far", "answer": "righter", "good": True},
        {"question": "far", "answer": "right", "good": False},
        {"question": "near", "answer": "wrong", "good": False},
    ],
    "b.jsonl": [
        {"question": "near", "answer": "right", "good": True},
        ["no object"],
        {"question": "alone", "answer": "no", "good": False},
        {"question": "far", "answer": "wrong", "good": False},
    ],
}
BAD = ["a.jsonl:3", "a.jsonl:4", "b.jsonl:2", "a.jsonl:1", "b.jsonl:3"]


@pytest.fixture
def thumbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registered]:
    """The page's format."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write_files(DOCS / "kinds/data_format.md", tmp_path)
    manager, status = PluginManager(), PluginStatus("thumbs", "shown-in-docs", "1")
    manager.register(importlib.import_module("alignkit_thumbs.plugin"), status)
    assert status.problem is None
    yield manager.get("data_format", "thumbs")
    for module in [m for m in sys.modules if m.partition(".")[0] == "alignkit_thumbs"]:
        del sys.modules[module]


def test_rows_that_turn_out_bad_later_are_named(thumbs: Registered, tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    bad: list[BadRow] = []
    sources = rows_of([str(tmp_path / name) for name in ROWS], None)
    component = thumbs.component
    found = list(read_records(component.build(component.config(), None), thumbs, sources, bad.append))
    assert found == [
        ("preferences", PreferencePair(prompt="near", chosen="right", rejected="wrong")),
        ("preferences", PreferencePair(prompt="far", chosen="right", rejected="wrong")),
    ]
    assert [Path(str(b.where)).name for b in bad] == BAD
    numbers = [place.partition(":") for place in BAD]
    assert [b.row for b in bad] == [ROWS[name][int(number) - 1] for name, _, number in numbers]
