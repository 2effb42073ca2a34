"""docs/reliability.md: every test that its tables name is there, and the options of `checkpoints:` are the code's."""

import re

import pytest
import yaml

from alignkit.recipe import Recipe
from helpers.pages import DOCS, ROOT, blocks

PAGE = DOCS / "reliability.md"
SECTIONS = ("Interruptions", "Training and rewards", "Reading data", "Before the run", "Hostile input")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+(?:::\w+)?)`")


def rows(section: str) -> list[list[str]]:
    """The cells of each row of a section's table, its head left out."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    # A bar inside code is written \|, and is no border.
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert cells[0] == ["fault", "behaviour", "test"]
    return cells[2:]


def defined(path: str) -> set[str]:
    """Names of the tests in a file; those of a class as `Class::test`."""
    found: set[str] = set()
    inside = ""
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"class (\w+)", line):
            inside = f"{match[1]}::"
        elif match := re.match(r"(\s*)(?:async )?def (test_\w+)", line):
            found.add(inside + match[2] if match[1] else match[2])
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_names_tests_that_exist(section: str) -> None:
    table = rows(section)
    assert len(table) >= 5
    missing = []
    for row in table:
        assert len(row) == 3, row
        assert all(row), row
        named = NAMED.findall(row[2])
        assert named, f"no test in: {row[0]}"
        assert row[2].count("tests/") == len(named), f"a test that is not written as `FILE::NAME`: {row[2]}"
        missing += [f"{path}::{test}" for path, test in named if not exists(path, test)]
    assert missing == []


def exists(path: str, test: str) -> bool:
    """Whether the file has a test of this name."""
    return (ROOT / path).is_file() and test in defined(path)


def test_the_options_are_the_codes_with_their_defaults() -> None:
    shown = [yaml.safe_load(b.text) for b in blocks(PAGE) if b.language == "yaml" and "checkpoints:" in b.text]
    assert len(shown) == 1
    options = Recipe.model_fields["checkpoints"].get_default(call_default_factory=True)
    assert shown[0] == {"checkpoints": options.model_dump(mode="json")}
