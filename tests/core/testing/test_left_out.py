"""Checks that an author leaves out are skipped with his reason; a name that is no check is an error."""

from typing import ClassVar

import pytest

from alignkit.testing import AdvantageContract


class TestOneLeftOut(AdvantageContract):
    component = "rloo"
    left_out: ClassVar = {"test_has_a_one_line_summary": "it is a story of two lines"}

    def test_has_a_one_line_summary_says_why(self) -> None:
        """The suite's own method, called as pytest would."""
        with pytest.raises(pytest.skip.Exception, match="left out: it is a story of two lines"):
            self.test_has_a_one_line_summary()  # type: ignore[call-arg]


def test_a_name_that_is_no_check_is_an_error() -> None:
    with pytest.raises(TypeError, match="left_out names test_has_a_summary, and there is no such check"):
        type("Typo", (AdvantageContract,), {"component": "rloo", "left_out": {"test_has_a_summary": "why"}})
