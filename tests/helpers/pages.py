"""The documentation's pages and the code blocks in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^(?P<mark><!-- not run -->\n+)?```(?P<head>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block; `run` is False behind `<!-- not run -->`."""

    language: str
    title: str
    text: str
    run: bool


def blocks(page: Path) -> list[Block]:
    """All of a page, in order."""
    found = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        title = re.search(r'title="([^"]*)"', match["head"])
        language = match["head"].split()[0] if match["head"].split() else ""
        found.append(Block(language, title[1] if title else "", match["text"], match["mark"] is None))
    return found


def write_files(page: Path, folder: Path) -> list[Path]:
    """Write the page's titled Python blocks to the files that their titles name; packages get an `__init__.py`."""
    written = []
    for block in blocks(page):
        if block.language == "python" and block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            if path.parent != folder and path.parent.name != "tests":
                (path.parent / "__init__.py").touch()
            written.append(path)
    return written
