"""What a row may be: limits that hold before memory is spent, and messages that stay short."""

import json

import pytest

from alignkit.data import rows
from alignkit.data.rows import BadRow, parse_object


def nested(levels: int) -> str:
    """An object that has so many levels."""
    return '{"a": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def test_the_deepest_row_can_be_written_again() -> None:
    deepest = parse_object(nested(rows.MAX_DEPTH))
    assert json.loads(json.dumps(deepest)) == deepest
    for levels in (rows.MAX_DEPTH + 1, 500, 100_000):
        with pytest.raises(BadRow, match="nested deeper than 64 levels"):
            parse_object(nested(levels))


def test_brackets_in_a_text_are_no_levels() -> None:
    assert parse_object(json.dumps({"a": "[" * 1000})) == {"a": "[" * 1000}


def test_values_are_counted_outside_of_texts() -> None:
    text = "a, b, [c], {d}, " * 200_000
    assert parse_object(json.dumps({"a": text, "b": '\\"'}))["a"] == text
    most = [0] * rows.MAX_VALUES
    assert len(json.dumps(most)) < rows.LONG  # short rows may have as many values as they like
    wide = {"a": "x" * rows.LONG, "b": most}
    with pytest.raises(BadRow, match="more than 250,000 values"):
        parse_object(json.dumps(wide))
    wide["b"] = most[:-10]
    assert parse_object(json.dumps(wide)) == wide


@pytest.mark.parametrize("piece", ['\\"', '"', '"\\', '\\\\"'])
def test_looking_for_texts_in_a_broken_row_takes_linear_time(piece: str) -> None:
    # with a pattern that can fail, each of a million quotes would be tried to the end of the row
    with pytest.raises(BadRow):
        parse_object(piece * 2_000_000)


def test_a_message_stays_short_whatever_the_key() -> None:
    key = "k" * 1_000_000
    with pytest.raises(BadRow) as caught:
        parse_object(f'{{"{key}": 1, "{key}": 2}}')
    assert caught.value.reason == "duplicate key"
    assert len(caught.value.problem) < 200
    assert len(caught.value.row) < 1100
