"""Importing a stranger's module so that nothing it does there reaches further than its own status."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from pluggy import PluginValidationError

from alignkit.manager.refusal import Refusal
from alignkit.manager.registered import PluginStatus

# Packages whose import takes a second or so. Every command loads every plugin, so none belongs at its top level.
HEAVY = ("torch", "transformers", "datasets", "tokenizers", "pandas", "scipy", "sklearn", "matplotlib", "tensorflow")


def import_quietly(status: PluginStatus, what: str, load: Callable[[], object]) -> object | None:
    """The plugin that `load` returns, or None and the reason in `status`. Seconds and heavy packages are noted."""
    before = {name for name in HEAVY if name in sys.modules}
    clock = time.perf_counter()
    plugin: object | None = None
    with contained(status, f"import of {what} failed: "):
        plugin = load()
    status.seconds = time.perf_counter() - clock
    status.heavy = tuple(name for name in HEAVY if name in sys.modules and name not in before)
    return plugin


@contextmanager
def contained(status: PluginStatus, prefix: str = "") -> Iterator[None]:
    """Whatever is raised inside becomes the status's problem; what is printed goes to stderr, as stdout may be JSON."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    # Not only Exception: a module may call sys.exit, or pytest.importorskip, when something it needs is missing.
    except BaseException as error:
        said = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        known = isinstance(error, Refusal | PluginValidationError)
        status.problem = said if known else f"{prefix}{type(error).__name__}: {said}"
