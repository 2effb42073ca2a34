"""What alignkit does to a pytest that has nothing to do with it: one line, and no heavy import."""

import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.testing.registration import HEAVY

pytestmark = pytest.mark.slow


def run_pytest(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_unrelated_project_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n\n\ndef test_nothing():\n"
        "    assert 'alignkit.testing.pytest_plugin' in sys.modules\n"
        f"    assert not set({HEAVY!r}) & set(sys.modules)\n"
        "    assert 'alignkit.testing.contract' not in sys.modules\n",
        encoding="utf-8",
    )
    assert "component api" in run_pytest(tmp_path)


def test_failing_checks_show_their_values(tmp_path: Path) -> None:
    """The suites stand in a package that pytest would not rewrite by itself."""
    (tmp_path / "test_rewritten.py").write_text(
        "from alignkit.testing import contract\n\n\ndef test_rewritten():\n    assert '@pytest_ar' in vars(contract)\n",
        encoding="utf-8",
    )
    run_pytest(tmp_path)
