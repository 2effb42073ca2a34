"""All checks on all plugins that a manager loaded."""

import inspect
from collections.abc import Iterator

from alignkit.components import KINDS
from alignkit.describe import options_of, walk
from alignkit.doctor.configs import config_findings
from alignkit.doctor.finding import CODES, Finding
from alignkit.doctor.requirement import requirement_finding
from alignkit.errors import AlignkitError
from alignkit.manager import PluginManager, PluginStatus, Registered

SLOW_SECONDS = 0.1


def examine(manager: PluginManager) -> list[Finding]:
    """Findings, errors first; within a severity in the order in which the plugins were loaded."""
    found = [*_left_out(manager), *_clashes(manager)]
    for plugin in manager.plugins:
        found += _plugin(plugin)
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(CODES[finding.code].severity))


def _left_out(manager: PluginManager) -> Iterator[Finding]:
    for name, why in manager.left_out.items():
        yield Finding("P003", name, why)


def _clashes(manager: PluginManager) -> Iterator[Finding]:
    for kind in KINDS:
        for name in manager.names(kind):
            same = [r for r in manager.all(kind) if r.component.name == name]
            if len(same) > 1:
                references = ", ".join(r.reference for r in same)
                yield Finding("P002", f"{same[0].distribution} {same[0].version}", f"{kind} {name!r}: {references}")


def _plugin(plugin: PluginStatus) -> Iterator[Finding]:
    if plugin.problem:
        yield Finding("P001", plugin.owner, plugin.problem)
    if plugin.heavy:
        yield Finding("P010", plugin.owner, f"its import brings in {', '.join(plugin.heavy)}")
    elif plugin.seconds > SLOW_SECONDS:
        yield Finding("P011", plugin.owner, f"its import took {plugin.seconds:.2f} s")
    for warning in plugin.warnings:
        yield Finding("P050", plugin.owner, warning)
    if plugin.kind == "entry_point":
        yield from requirement_finding(plugin)
    for registered in plugin.components:
        for code, what in _component(registered):
            yield Finding(code, plugin.owner, f"{registered.kind} {registered.component.name!r}: {what}")


def _component(registered: Registered) -> Iterator[tuple[str, str]]:
    component = registered.component
    if not component.summary.strip():
        yield "P030", "it has no summary"
    if component.deprecated:
        yield "P051", component.deprecated
    bare = [name for name, option in walk(options_of(component.config)) if not option.description.strip()]
    if bare:
        yield "P020", f"no description: {', '.join(bare)}"
    yield from config_findings(component.config)
    refused = _arguments_refused(registered)
    if refused:
        yield "P032", refused
    elif registered.kind == "command":
        yield from _command(registered)


def _arguments_refused(registered: Registered) -> str | None:
    try:
        inspect.signature(registered.component.build).bind(None, None)
    except ValueError:  # builtins and extension types may have no signature
        return None
    except TypeError as error:
        return f"build: {error}"
    return None


def _command(registered: Registered) -> Iterator[tuple[str, str]]:
    try:
        registered.build(registered.component.config(), None)
    except AlignkitError as error:
        yield "P031", error.what.removeprefix(f"{registered.described} ")
    except Exception as error:
        yield "P031", f"{type(error).__name__}: {error}"
