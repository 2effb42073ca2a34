"""The site builds without a warning, leaves nothing out that it promises to list, and asks the web for nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.components import KINDS
from alignkit.describe import options_of, walk
from alignkit.manager import PluginManager
from alignkit.recipe import Recipe
from helpers.pages import ROOT

pytestmark = pytest.mark.slow

SUITES = 10
LOADED = re.compile(
    r'<(?:script|img|iframe|source)[^>]*\bsrc="([^"]+)"|<link(?![^>]*rel="canonical")[^>]*\bhref="([^"]+)"'
)
LINK = re.compile(r'<a[^>]*\bhref="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as `make docs` does it."""
    folder = tmp_path_factory.mktemp("site") / "some" / "where"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def pages(site: Path) -> dict[str, str]:
    """Path -> HTML of every page."""
    return {str(path.relative_to(site)): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_every_page_is_there(site: Path) -> None:
    found = pages(site)
    assert len(found) >= 24 + 11 + 30
    written = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    missing = [str(path) for path in written if str(path.with_suffix(".html")) not in found]
    assert missing == []


def test_nothing_is_loaded_from_elsewhere_or_from_the_top_of_a_server(site: Path) -> None:
    found = pages(site)
    # A server shows this page for paths at any depth, so it alone has to name things from the top.
    del found["404.html"]
    loaded = {(page, a or b) for page, html in found.items() for a, b in LOADED.findall(html)}
    assert len(loaded) > 100
    assert [x for x in loaded if re.match(r"[a-z]+:|/", x[1]) and not x[1].startswith("data:")] == []
    links = {(page, link) for page, html in found.items() for link in LINK.findall(html)}
    assert [x for x in links if x[1].startswith("/")] == []


def test_links_inside_the_site_arrive(site: Path) -> None:
    found = pages(site)
    count = 0
    broken = []
    for page, html in found.items():
        for link in LINK.findall(html) if page != "404.html" else ():
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link) or not target:
                continue
            count += 1
            path = os.path.normpath((Path(page).parent / target).as_posix())
            there = (site / path).exists() and (not anchor or f'id="{anchor}"' in found.get(path, ""))
            if not there:
                broken.append((page, link))
    assert count > 1000
    assert broken == []


def test_every_option_of_every_builtin_component_is_listed(site: Path) -> None:
    manager = PluginManager()
    manager.load()
    count = 0
    for kind in set(KINDS) - {"command"}:
        html = (site / "reference/options" / f"{kind}.html").read_text(encoding="utf-8")
        for registered in (r for r in manager.all(kind) if r.distribution == "alignkit"):
            part = html.split(f'<h2 id="{registered.component.name.lower()}"')[1].split("<h2 ")[0]
            for name, _ in walk(options_of(registered.component.config)):
                count += 1
                assert f"<td><code>{name}</code></td>" in part, f"{kind} {registered.component.name}: {name}"
    assert count > 250


def test_the_recipe_s_keys_say_what_they_are(site: Path) -> None:
    html = (site / "reference/recipe.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r"<tr>\s*<td><code>(\w+)</code></td>(.*?)</tr>", html, re.DOTALL))
    assert set(Recipe.model_fields) <= set(rows)
    assert "default: those meant for every run" in rows["trackers"]
    assert "<code>list of mappings</code>" in rows["steps"]
    assert [name for name in Recipe.model_fields if "<td></td>" in rows[name]] == []


def test_every_check_of_every_suite_is_listed(site: Path) -> None:
    import alignkit.testing

    html = (site / "plugins/testing.html").read_text(encoding="utf-8")
    assert len(alignkit.testing.__all__) == SUITES
    for suite in (getattr(alignkit.testing, name) for name in alignkit.testing.__all__):
        checks = [name for name in dir(suite) if name.startswith("test_")]
        assert len(checks) > 5
        assert [name for name in checks if f"<td><code>{name}</code></td>" not in html] == []


def test_every_command_is_listed(site: Path) -> None:
    html = (site / "reference/commands.html").read_text(encoding="utf-8")
    for command in ("run", "check", "plugins", "schema", "report", "sample", "label", "feedback", "bench", "doctor"):
        assert re.search(rf"<h\d id=\"[\w-]*{command}\"", html), command
