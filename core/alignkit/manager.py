"""Finds plugins, keeps broken ones apart, and resolves components by name.

Every plugin is loaded alone. One that cannot be used (import error, unknown hook, wrong argument, incompatible api,
clashing name) is recorded with its distribution and version; it never breaks a recipe that does not name it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, cast

import pluggy
from pydantic import BaseModel

from alignkit.components import API_VERSION, KINDS, Component, Kind
from alignkit.errors import UserError, did_you_mean
from alignkit.hookspecs import HOOKSPEC_CLASSES, PROJECT_NAME, REGISTRATION_HOOKS

ENTRY_POINT_GROUP = PROJECT_NAME
BUILTIN_DISTRIBUTION = PROJECT_NAME


@dataclass(frozen=True)
class Registered:
    """A component with its owner."""

    kind: Kind
    component: Component
    plugin: str
    distribution: str
    version: str

    @property
    def reference(self) -> str:
        """The name that is never ambiguous."""
        return f"{self.distribution}:{self.component.name}"


@dataclass
class PluginStatus:
    """What became of one plugin."""

    name: str
    distribution: str
    version: str
    problem: str | None = None
    components: list[Registered] = field(default_factory=list)

    @property
    def status(self) -> str:
        """`ok` or `failed`."""
        return "failed" if self.problem else "ok"


class PluginManager:
    """Loads plugins once; `get` resolves a component by kind and name."""

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(PROJECT_NAME)
        for spec in HOOKSPEC_CLASSES:
            self._pluggy.add_hookspecs(spec)
        self.plugins: list[PluginStatus] = []
        self._components: dict[tuple[Kind, str], list[Registered]] = {}

    @property
    def hook(self) -> Any:
        """pluggy's relay, for lifecycle and transform hooks."""
        return self._pluggy.hook

    def load_entry_points(self, disable: Iterable[str] = ()) -> None:
        """Load every installed plugin, sorted by distribution and name so that the order is the same everywhere.

        ALIGNKIT_PLUGINS, when set, is a comma-separated allowlist of distribution names besides the built-ins.
        """
        allowed = os.environ.get("ALIGNKIT_PLUGINS")
        allowlist = None if allowed is None else {n.strip() for n in allowed.split(",")} | {BUILTIN_DISTRIBUTION}
        disabled = set(disable)
        for dist, entry in sorted(_entry_points(), key=lambda pair: (pair[0].name, pair[1].name)):
            off = dist.name in disabled or entry.name in disabled
            if off or (allowlist is not None and dist.name not in allowlist):
                continue
            self._load(entry, dist)

    def _load(self, entry: EntryPoint, dist: Distribution) -> None:
        status = PluginStatus(entry.name, dist.name, dist.version)
        self.plugins.append(status)
        try:
            plugin = entry.load()
        except Exception as error:
            status.problem = f"import of {entry.value} failed: {type(error).__name__}: {error}"
            return
        self.register(plugin, status)

    def register(self, plugin: object, status: PluginStatus) -> None:
        """Register one plugin object; on any problem roll it back and say why in `status`."""
        if status not in self.plugins:
            self.plugins.append(status)
        name = f"{status.distribution}:{status.name}"
        try:
            self._pluggy.register(plugin, name=name)
            status.problem = self._unknown_hook(plugin)
            if status.problem is None:
                status.components = self._collect(plugin, status)
        except Exception as error:
            status.problem = f"{type(error).__name__}: {error}"
        if status.problem is not None:
            status.components = []
            if self._pluggy.has_plugin(name):
                self._pluggy.unregister(plugin)
            return
        for registered in status.components:
            self._components.setdefault((registered.kind, registered.component.name), []).append(registered)

    def _unknown_hook(self, plugin: object) -> str | None:
        callers = self._pluggy.get_hookcallers(plugin) or []
        known = [c.name for c in callers if c.spec is not None]
        unknown = [c.name for c in callers if c.spec is None]
        if unknown:
            every = [n for spec in HOOKSPEC_CLASSES for n in vars(spec) if n.startswith(PROJECT_NAME)]
            return f"unknown hook {unknown[0]}{did_you_mean(unknown[0], every)}"
        return None if known else "implements no alignkit hook"

    def _collect(self, plugin: object, status: PluginStatus) -> list[Registered]:
        found: list[Registered] = []
        for kind in KINDS:
            function = getattr(plugin, REGISTRATION_HOOKS[kind], None)
            if function is None:
                continue
            for component in function():
                problem = _component_problem(component)
                if problem:
                    raise ValueError(f"{kind} {getattr(component, 'name', component)!r}: {problem}")
                registered = Registered(kind, component, status.name, status.distribution, status.version)
                self._check_name(registered, found)
                found.append(registered)
        return found

    def _check_name(self, new: Registered, own: list[Registered]) -> None:
        same = [*self._components.get((new.kind, new.component.name), []), *own]
        for other in same:
            if (other.kind, other.component.name) != (new.kind, new.component.name):
                continue
            if other.distribution == new.distribution:
                raise ValueError(f"{new.kind} {new.component.name!r} is registered twice")
            if other.distribution == BUILTIN_DISTRIBUTION:
                raise ValueError(f"{new.kind} {new.component.name!r} is a built-in name; choose another")

    def names(self, kind: Kind) -> list[str]:
        """Names of all usable components of a kind."""
        return sorted(name for k, name in self._components if k == kind)

    def all(self, kind: Kind) -> list[Registered]:
        """All usable components of a kind, sorted by name."""
        return [r for name in self.names(kind) for r in self._components[kind, name]]

    def get(self, kind: Kind, name: str, where: str | None = None) -> Registered:
        """The component `name` or `distribution:name`. Raises UserError with the reason it is not there."""
        distribution, _, plain = name.rpartition(":")
        found = [
            r
            for r in self._components.get((kind, plain), [])
            if not distribution or r.distribution == distribution
        ]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(r.reference for r in found)
            raise UserError(f"{kind} {name!r} is offered by several plugins", where=where, hint=f"write one of {choices}")
        hint = f"installed: {', '.join(self.names(kind)) or 'none'}"
        failed = [p for p in self.plugins if p.problem]
        if failed:
            reasons = "; ".join(f"{p.distribution} {p.version}: {p.problem}" for p in failed)
            hint += f". Plugins that failed to load: {reasons}"
        else:
            hint += ". A plugin that offers it is installed with pip; `alignkit plugins` lists what is there"
        raise UserError(
            f"no {kind.replace('_', ' ')} {name!r} is installed{did_you_mean(name, self.names(kind))}",
            where=where,
            hint=hint,
        )

    def versions(self) -> dict[str, str]:
        """Distribution -> version of all usable plugins, for the run's record."""
        return {p.distribution: p.version for p in self.plugins if not p.problem}


def _component_problem(component: object) -> str | None:
    if not isinstance(component, Component):
        return f"expected alignkit.Component, got {type(component).__name__}"
    if component.api != API_VERSION:
        return f"made for api {component.api}, this alignkit has api {API_VERSION}"
    if not (isinstance(component.config, type) and issubclass(cast(type, component.config), BaseModel)):
        return "config is not a pydantic model class"
    return None


def _entry_points() -> Iterable[tuple[Distribution, EntryPoint]]:
    seen: set[tuple[str, str]] = set()
    for dist in distributions():
        for entry in dist.entry_points:
            # The first distribution on sys.path wins, as for imports; an editable install can be listed twice.
            if entry.group == ENTRY_POINT_GROUP and (dist.name, entry.name) not in seen:
                seen.add((dist.name, entry.name))
                yield dist, entry
