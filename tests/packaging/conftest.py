"""The wheel of this source tree, built once."""

from pathlib import Path

import pytest

from helpers.packages import ROOT, build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("dist"))
