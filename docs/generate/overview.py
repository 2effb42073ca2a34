"""Tables of all hooks and all kinds, from the hook specifications' own docstrings."""

import inspect
from collections.abc import Iterator
from typing import Any

HOOKS_MARK, KINDS_MARK = "<!-- hooks -->", "<!-- kinds -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks."""
    if HOOKS_MARK in markdown:
        markdown = markdown.replace(HOOKS_MARK, "\n".join(hook_tables()))
    return markdown.replace(KINDS_MARK, "\n".join(kind_table())) if KINDS_MARK in markdown else markdown


def hook_tables() -> Iterator[str]:
    """One table per sort of hook, in the order of the source."""
    from alignkit.hookspecs import HOOKSPEC_CLASSES

    for spec in HOOKSPEC_CLASSES:
        yield from (f"## {spec.__name__}", "", "| hook | |", "|---|---|")
        for name, function in vars(spec).items():
            if name.startswith("alignkit_"):
                yield f"| [`{name}`]({name}.md) | {first_line(function)} |"
        yield ""


def kind_table() -> Iterator[str]:
    """Kind, hook, what it is."""
    from alignkit.components import KINDS
    from alignkit.hookspecs import REGISTRATION_HOOKS, Registration

    yield from ("| kind | what it is | hook |", "|---|---|---|")
    for kind in KINDS:
        hook = REGISTRATION_HOOKS[kind]
        what = first_line(getattr(Registration, hook))
        yield f"| [`{kind}`]({kind}.md) | {what} | [`{hook}`](../hooks/{hook}.md) |"


def first_line(function: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(function) or "").split("\n")[0].replace("|", "\\|")
