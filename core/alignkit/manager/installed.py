"""The entry points of all installed distributions."""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from importlib.util import find_spec
from pathlib import Path

from alignkit.hookspecs import PROJECT_NAME
from alignkit.manager.local import version_of
from alignkit.manager.registered import BUILTIN_DISTRIBUTION, PluginStatus

logger = logging.getLogger("alignkit")

ENTRY_POINT_GROUP = PROJECT_NAME


@dataclass(frozen=True)
class Installed:
    """An entry point with the name and version of its distribution."""

    entry: EntryPoint
    distribution: str
    version: str

    def new_status(self) -> PluginStatus:
        """Of a plugin that is about to be loaded."""
        source = self.entry.value
        return PluginStatus(self.entry.name, self.distribution, self.version, kind="entry_point", source=source)


def installed_plugins() -> tuple[list[Installed], list[PluginStatus]]:
    """Every entry point in the order in which they are loaded, and distributions whose entry points are damaged.

    Built-ins come first, so that no stranger can take one of their names by standing earlier in the alphabet.
    """
    found: dict[tuple[str, str], Installed] = {}
    damaged: list[PluginStatus] = []
    for dist in distributions():
        for plugin in _plugins(dist, damaged):
            # The first distribution on sys.path wins, as for imports; an editable install can be listed twice.
            found.setdefault((normal(plugin.distribution), plugin.entry.name), plugin)
    ordered = sorted(found.values(), key=_load_order)
    return ordered, damaged


def _plugins(dist: Distribution, damaged: list[PluginStatus]) -> Iterator[Installed]:
    try:
        entries: Iterable[EntryPoint] = [e for e in dist.entry_points if e.group == ENTRY_POINT_GROUP]
    except Exception as error:  # any distribution on the machine may have a damaged file
        name, version = _identity(dist) or ("unknown", "?")
        problem = f"its entry points cannot be read: {error}"
        if isinstance(error, UnicodeError):  # then nobody can tell whether there is a plugin among them
            logger.warning("%s %s: %s", name, version, problem)
        elif f"[{ENTRY_POINT_GROUP}]" in (dist.read_text("entry_points.txt") or ""):
            damaged.append(PluginStatus("entry_points.txt", name, version, problem, kind="entry_point"))
        return
    identity = _identity(dist) if entries else None
    # A distribution without a name is what an interrupted pip leaves behind.
    if identity is None:
        return
    name, version = identity
    # Not of the project's own: who works on alignkit itself would do every step anew after each line.
    changing = normal(name) != BUILTIN_DISTRIBUTION and _editable(dist)
    for entry in entries:
        yield Installed(entry, name, version + _content(entry) if changing else version)


def _editable(dist: Distribution) -> bool:
    """Whether it was installed by `pip install -e`, and may change without a new version (PEP 610)."""
    try:
        found = json.loads(dist.read_text("direct_url.json") or "{}")
        return bool(found.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False


def _content(entry: EntryPoint) -> str:
    """`+sha256.` and the hash of the package's files; nothing if it is not found, as its import then says."""
    try:
        spec = find_spec(entry.module.partition(".")[0])
    except (ImportError, ValueError):
        return ""
    found = None if spec is None else next(iter(spec.submodule_search_locations or ()), spec.origin)
    if found is None or not Path(found).exists():
        return ""
    return f"+{version_of(Path(found)).replace(':', '.')}"


def _identity(dist: Distribution) -> tuple[str, str] | None:
    try:
        metadata = dist.metadata  # once: each look at it parses the whole file anew
    except UnicodeError:
        return None
    return (metadata["Name"], metadata["Version"] or "?") if "Name" in metadata else None


def normal(name: str) -> str:
    """Distribution names are equal whatever their case and separators (PyPA name normalisation)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _load_order(plugin: Installed) -> tuple[bool, str, str]:
    return plugin.distribution != BUILTIN_DISTRIBUTION, plugin.distribution, plugin.entry.name
