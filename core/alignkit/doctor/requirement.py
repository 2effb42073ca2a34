"""Whether a plugin's distribution says which alignkit it needs."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from alignkit.doctor.finding import Finding
from alignkit.manager import BUILTIN_DISTRIBUTION, PluginStatus


def requirement_finding(plugin: PluginStatus) -> Iterator[Finding]:
    """At most one finding about `Requires-Dist: alignkit`."""
    if plugin.distribution == BUILTIN_DISTRIBUTION:
        return
    try:
        listed = requires(plugin.distribution) or []
        installed = version(BUILTIN_DISTRIBUTION)
    except PackageNotFoundError:  # a source tree that was never installed
        return
    wanted = [r for r in map(_parsed, listed) if r is not None and _concerns(r)]
    if not wanted:
        yield Finding("P040", plugin.owner, f"{plugin.distribution} has no requirement on {BUILTIN_DISTRIBUTION}")
    for requirement in wanted:
        if not _allows(requirement, installed):
            what = f"{plugin.distribution} requires {requirement}, and {BUILTIN_DISTRIBUTION} {installed} is installed"
            yield Finding("P041", plugin.owner, what)


def _parsed(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _concerns(requirement: Requirement) -> bool:
    """Whether it is on alignkit and always wanted, not only for an extra or another Python."""
    marker = requirement.marker
    return canonicalize_name(requirement.name) == BUILTIN_DISTRIBUTION and (marker is None or marker.evaluate())


def _allows(requirement: Requirement, installed: str) -> bool:
    try:
        return requirement.specifier.contains(installed, prereleases=True)
    except InvalidVersion:
        return True
