"""Columns that a format does not read: counted, and refused where one seems to be a known one misspelt."""

import logging
from typing import Any

import pytest

from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit_plugins.data_formats.known import KnownColumns, nearly_equal


@pytest.mark.parametrize(
    "name", ["promt", "prompts", "Prompt", " prompt", "propmt", "prommt", "prrompt", "prompt_", "orompt", "rompt"]
)
def test_near_misses(name: str) -> None:
    assert nearly_equal(name, "prompt")


@pytest.mark.parametrize(
    "name", ["prompt_id", "question", "promptly", "p", "", "tpromp", "text", "chosen", "prompt" * 50]
)
def test_other_words(name: str) -> None:
    assert not nearly_equal(name, "prompt")


def test_short_names_are_other_words() -> None:
    assert not nearly_equal("b", "a")
    assert not nearly_equal("tex", "te")


def row(columns: KnownColumns, **values: Any) -> dict[str, Any]:
    return columns.row(SourceRow("f.jsonl:7", values))


def test_a_misspelt_column_in_place_of_an_optional_one_is_a_bad_row() -> None:
    columns = KnownColumns("chosen", optional=("prompt", None))
    for values in ({"promt": "x"}, {"promt": "x", "prompt": None}):
        with pytest.raises(BadRow) as caught:
            row(columns, chosen="a", **values)
        assert caught.value.problem == "column 'promt' is not read, and 'prompt' is missing: is it a misspelling?"
        assert caught.value.reason == "misspelt column"
    # that a required one is missing, the format says itself
    row(columns, chosenn="a", prompt="p")


def test_beside_the_known_one_it_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    columns = KnownColumns("chosen", optional=("prompt",))
    with caplog.at_level(logging.WARNING, "alignkit"):
        for _ in range(3):
            row(columns, chosen="a", chosenn="b", prompt="p", id=3, gone=None)
    assert caplog.text.count("f.jsonl:7: column 'chosenn' is not read beside 'chosen'") == 1
    assert columns.notes() == {"columns_not_read": {"chosenn": 3, "id": 3}}


def test_known_rows_have_no_notes() -> None:
    columns = KnownColumns("chosen", optional=("prompt",))
    row(columns, chosen="a")
    row(columns, chosen="a", prompt="p")
    assert columns.notes() == {}


def test_names_without_end_are_counted_together() -> None:
    columns = KnownColumns("chosen")
    for n in range(1000):
        row(columns, chosen="a", **{f"column {n} {'x' * 1000}": 1})
    found = columns.notes()["columns_not_read"]
    assert len(found) == 51
    assert max(map(len, found)) == 60
    assert sum(found.values()) == 1000
    assert found["(other columns)"] == 950
