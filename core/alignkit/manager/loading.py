"""Importing a stranger's module: its failure, its prints and its working folder reach no further than its status.

What it does to the rest of the process (sys.path, environment, signals, threads) stays: plugins are trusted code.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from pluggy import PluginValidationError

from alignkit.errors import ENDINGS, said_by
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
        with redirect_stdout(sys.stderr), _staying_here():
            yield
    except ENDINGS:
        raise
    # Not only Exception: a module may call sys.exit, or pytest.importorskip, when something it needs is missing.
    except BaseException as error:
        known = isinstance(error, Refusal | PluginValidationError)
        said = str(error) if known else prefix + said_by(error)
        status.problem = "; ".join(line.strip() for line in said.splitlines() if line.strip())


@contextmanager
def _staying_here() -> Iterator[None]:
    """A plugin that changes the working folder would change where the recipe's files are and the run is written."""
    here = _working_folder()
    try:
        yield
    finally:
        if here is not None and here != _working_folder():
            os.chdir(here)


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed
        return None
