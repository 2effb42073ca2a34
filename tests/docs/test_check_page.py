"""docs/check.md: every code as the table in the code has it, a section for each, and an example that works."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alignkit.data.store import RecordFile, write_records
from alignkit.preflight import CODES, DataView, Sample
from alignkit.protocols import Examines, ExaminesData
from alignkit.records import Demonstration
from helpers.context import make_context
from helpers.pages import DOCS, blocks

PAGE = DOCS / "check.md"


def test_every_code_is_in_the_table_and_has_its_section() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (R\d{3}) \| (\w+) \| (.*?) \| (.*?) \|$", text, flags=re.M)
    assert rows == [(code, *entry) for code, entry in CODES.items()]
    assert len(rows) >= 40
    sections = re.findall(r"^## (R\d{3}): (.*)\n\n(.*)", text, flags=re.M)
    assert [section[:2] for section in sections] == [(code, entry.title) for code, entry in CODES.items()]
    assert all(len(words) > 25 for _, _, words in sections)


def test_what_is_shown_has_titles_and_advice_of_the_code() -> None:
    (shown,) = [block.text for block in blocks(PAGE) if block.language == "console"]
    found = re.findall(r"^(R\d{3}) (\w+): (.*)\n  .*\n  -> (.*)$", shown, flags=re.M)
    assert len(found) == 2
    assert all(CODES[code] == tuple(entry) for code, *entry in found)


def test_the_stage_that_is_shown_is_examined(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    names: dict[str, Any] = {}
    exec(example, names)
    stage = names["MyStage"]()
    stage.config = SimpleNamespace(lr=0.1, epochs=30, max_length=8)
    assert isinstance(stage, Examines)
    assert isinstance(stage, ExaminesData)
    assert [finding.code for finding in stage.examine(make_context())] == ["R040", "R033"]
    write_records(tmp_path / "rows.jsonl", [Demonstration(prompt="a", completion="b")])
    data = Sample.of(RecordFile(tmp_path / "rows.jsonl", Demonstration), 10)
    assert list(stage.examine_data(DataView(None, data, None))) == []
