"""Deprecation warnings on the command line: one line each, once."""

import warnings
from typing import TextIO

import click

from alignkit.errors import AlignkitDeprecationWarning


def show_deprecations() -> None:
    """From now on an AlignkitDeprecationWarning is `warning: …` on stderr; other warnings look as they did."""
    before = warnings.showwarning
    shown: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, AlignkitDeprecationWarning):
            before(message, category, filename, lineno, file, line)
        elif str(message) not in shown:
            shown.add(str(message))
            click.echo(f"warning: {message}", err=True)

    warnings.showwarning = show
