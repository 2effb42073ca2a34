"""alignkit: align language models with human or AI preferences.

A recipe names components, plugins provide them, and one engine moves typed records through them. This package is
the core: hook specs, plugin manager, records, recipe grammar, run engine, alignment loop, ops and command line. It
imports neither the built-in plugins nor the kernels; both register through entry points, like a stranger's package.

Importing ``alignkit`` stays cheap on purpose: torch and transformers are imported where tensors are needed.
"""

from importlib.metadata import PackageNotFoundError, version

from alignkit.components import API_VERSION, Component
from alignkit.errors import AlignkitError, Fault, Paused, UserError
from alignkit.hookspecs import hookimpl

try:
    __version__ = version("alignkit")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "API_VERSION",
    "AlignkitError",
    "Component",
    "Fault",
    "Paused",
    "UserError",
    "__version__",
    "hookimpl",
]
