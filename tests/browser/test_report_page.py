"""The report in a real browser: it renders without errors and asks for nothing from outside."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.commands import alignkit

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=2000",
]  # fmt: skip
SMALL = [
    "corpus.format.rows=300", "corpus.format.prompts=80", "corpus.format.test_prompts=16", "policy.init.preset=nano",
    "policy.tokenizer.vocab_size=400", "labels.limit=30", "aligned.iterations=2", "aligned.batch_size=8",
]  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="chromium is not installed")
def test_report_renders(tmp_path: Path) -> None:
    assert CHROMIUM is not None, "CI installs chromium"
    alignkit("run", "quickstart", *SMALL, cwd=tmp_path)
    page = tmp_path / "runs/quickstart/report.html"
    profile = [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--log-level=0"]
    dom = subprocess.run(
        [CHROMIUM, *FLAGS, *profile, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "Samples" in dom.stdout
    assert dom.stdout.count("<svg") >= 5
    assert "Refused to" not in dom.stderr, "the page's own security policy blocks part of it"
    assert "Uncaught" not in dom.stderr
    shot = tmp_path / "shot.png"
    subprocess.run(
        [CHROMIUM, *FLAGS, *profile, f"--screenshot={shot}", "--window-size=1280,3000", page.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert shot.stat().st_size > 50_000, "an empty page compresses to much less"
