"""docs/performance.md has the figures of benchmarks/results/."""

from typing import Any

import pytest

from helpers.comparing import compare_module
from helpers.pages import DOCS

page: Any = compare_module("page")


def test_the_page_has_the_results() -> None:
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert page.page_with(text, page.measured()) == text, "run: python benchmarks/compare/page.py"


def test_only_what_lies_between_the_marks_is_replaced() -> None:
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    assert page.page_with(text, "new") == f"before\n{page.BEGIN}\nnew\n{page.END}\nafter\n"
    with pytest.raises(ValueError, match="no <!-- measured"):
        page.page_with("no marks", "new")


def test_ratios_by_the_clock_are_not_shown_of_a_busy_machine() -> None:
    def row(metric: str, ratio: float) -> dict[str, Any]:
        both = {"task": "sft", "peer_setting": "default", "ours": 20.0, "peer": 10.0, "target": ">= 1.6"}
        return {**both, "metric": metric, "ratio": ratio, "met": ratio >= 1.6}

    free = page.rates([row("tokens/s", 2.1), row("tokens/CPU-s", 2.0)]).splitlines()[2]
    assert (free.split(" | ")[2], free.split(" | ")[6]) == ("2.00", "2.10")
    busy = page.rates([row("tokens/s", 9.0), row("tokens/CPU-s", 1.5)]).splitlines()[2]
    assert (busy.split(" | ")[2], busy.split(" | ")[6]) == ("**1.50**", "busy")
