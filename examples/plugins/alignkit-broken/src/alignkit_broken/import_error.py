"""Imports a package that is not there."""

import a_package_that_does_not_exist  # noqa: F401

from alignkit import hookimpl


@hookimpl
def alignkit_advantages() -> list[object]:
    """Never reached."""
    return []
