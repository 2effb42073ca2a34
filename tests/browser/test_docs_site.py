"""The documentation's site opened from the file system: it searches, and nothing but files is asked for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("width", [1280, 400])
def test_pages_fit_and_search_finds_a_hook(site: Path, width: int, open_page: Callable[..., Page]) -> None:
    page = open_page(f"file://{site}/index.html", viewport={"width": width, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index", "hooks/alignkit_iteration_end", "kinds/optimizer_stage", "plugins/tutorial"):
        page.goto(f"file://{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("h1").first.is_visible()
    if width < 600:
        page.locator("label[for=__search].md-icon").first.click()
    page.locator("input.md-search__input").click()
    page.keyboard.type("alignkit_iteration_end", delay=20)
    found = page.locator("a.md-search-result__link[href*='hooks/alignkit_iteration_end.html']").first
    found.wait_for(state="visible")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
