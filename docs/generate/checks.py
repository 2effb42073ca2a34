"""The checks of each conformance suite, as a table of their names and docstrings."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

MARK = re.compile(r"^<!-- checks of (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each mark by the suite's table."""
    return MARK.sub(lambda match: table(match[1]), markdown)


def table(suite: str) -> str:
    """`| check | what it demands |`, without what every component's suite has; that is said once."""
    import alignkit.testing

    rows = [f"| `{name}` | {demand} |" for name, demand in checks(getattr(alignkit.testing, suite))]
    return "\n".join([f"{len(rows)} methods.", "", "| check | what it demands, and why |", "|---|---|", *rows])


def checks(suite: type) -> Iterator[tuple[str, str]]:
    """Name and docstring of the checks that the class has of its own, in the order of the source."""
    from alignkit.testing import ComponentContract

    for name in (n for c in reversed(suite.__mro__) for n in vars(c)):
        if not name.startswith("test_") or (suite is not ComponentContract and hasattr(ComponentContract, name)):
            continue
        yield name, " ".join((inspect.getdoc(getattr(suite, name)) or "").split()).replace("|", "\\|")
