"""Files outside docs/ that its pages speak of.

The measurements' READMEs become pages of the site, and `<!-- README: heading -->` stands for that part of the README. A
link to any other file of the repository becomes its path: the site has no copy of it.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
MEASUREMENTS = "benchmarks/*/README.md"
README_PART = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def page_of(readme: str) -> str:
    """benchmarks/curves/README.md -> benchmarks/curves.md"""
    return str(PurePosixPath(readme).parent.with_suffix(".md"))


def on_files(files: Any, config: Any) -> Any:
    """Add the measurements' pages, with links as from the place they came from."""
    for path in sorted(ROOT.glob(MEASUREMENTS)):
        source = path.relative_to(ROOT).as_posix()
        content = relinked(path.read_text(encoding="utf-8"), source, page_of(source))
        files.append(File.generated(config, page_of(source), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mend the links of a page that stands in docs/."""
    if page.file.generated_by is not None:
        return markdown
    own = relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)
    return README_PART.sub(lambda match: relinked(readme_part(match[1]), "README.md", page.file.src_uri), own)


def readme_part(heading: str) -> str:
    """What stands under `## heading` of the README, headings inside it included."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.split(f"\n## {heading}\n")[1].split("\n## ")[0].strip()


def relinked(markdown: str, source: str, page: str) -> str:
    """`markdown` of the repository's file `source`, shown as the site's `page`."""

    def mended(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if ":" in target:
            return match[0]
        path = normal(PurePosixPath(source).parent / target)
        if path.startswith("docs/"):
            inside = path.removeprefix("docs/")
        elif PurePosixPath(path).match(MEASUREMENTS):
            inside = page_of(path)
        elif (ROOT / path).exists():
            return f"{text} (`{path}`)" if text.strip("`") != path else f"`{path}`"
        else:
            return match[0]  # left as it is: the strict build names it
        up = "../" * page.count("/")
        return f"{mark}[{text}]({up}{inside}{anchor})"

    return LINK.sub(mended, markdown)


def normal(path: PurePosixPath) -> str:
    """The path without `..`."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
