"""A pytest plugin for `mutants.py`: writes down which tests failed on what, and where the project was imported from."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

PACKAGES = ("alignkit", "alignkit_plugins", "alignkit_kernels", "helpers")
failed: dict[str, str] = {}


def pytest_configure() -> None:
    """A failing example is enough here: looking for the smallest one takes most of the time."""
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None)
    hypothesis.settings.load_profile("mutants")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Keep the exception of a test that failed in its own body; a fixture that fails says nothing about the test."""
    report: Any = yield
    if report.when == "call" and report.failed and call.excinfo is not None:
        failed[item.nodeid] = call.excinfo.typename
    return report


def pytest_sessionfinish() -> None:
    """Write the report."""
    home = Path(os.environ["MUTANTS_SANDBOX"]).resolve()
    files = [
        Path(module.__file__).resolve()
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in PACKAGES and getattr(module, "__file__", None)
    ]
    foreign = sorted(str(f) for f in files if not f.is_relative_to(home))
    found = {"failed": failed, "imported": len(files) - len(foreign), "foreign": foreign}
    Path(os.environ["MUTANTS_REPORT"]).write_text(json.dumps(found), encoding="utf-8")
