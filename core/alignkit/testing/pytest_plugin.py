"""What pytest loads wherever alignkit is installed: failing checks show their values, the header the versions.

It imports nothing heavy: pytest starts in projects that have nothing to do with alignkit too.
"""

import pytest

import alignkit

# The suites that people inherit from, and no module of alignkit else.
pytest.register_assert_rewrite("alignkit.testing")


def pytest_report_header() -> str:
    """One line at the top of pytest's output."""
    return f"alignkit: {alignkit.__version__}, component api {alignkit.API_VERSION}"
