"""Finds plugins, keeps broken ones apart, and resolves components by name.

Every plugin is loaded alone. One that cannot be used (import error, unknown hook, wrong argument, incompatible api,
clashing name) is recorded with its distribution and version; it never breaks a recipe that does not name it.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, cast

import pluggy
from pydantic import BaseModel

from alignkit.components import API_VERSION, KINDS, Component, Kind
from alignkit.errors import UserError, did_you_mean
from alignkit.hookspecs import HOOKSPEC_CLASSES, PROJECT_NAME, REGISTRATION_HOOKS

logger = logging.getLogger("alignkit")

ENTRY_POINT_GROUP = PROJECT_NAME
BUILTIN_DISTRIBUTION = PROJECT_NAME
# Keys a recipe uses itself: a component whose options have such a name could never be given it.
RECIPE_KEYS = {"step": ("name", "id", "step", "each_round")}


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
        self.left_out: dict[str, str] = {}  # plugin -> why it was not loaded, as asked
        self._components: dict[tuple[Kind, str], list[Registered]] = {}

    @property
    def hook(self) -> Any:
        """pluggy's relay, for lifecycle and transform hooks."""
        return self._pluggy.hook

    def load_entry_points(self, disable: Iterable[str] = ()) -> None:
        """Load every installed plugin: built-ins first, then by distribution and name, the same order everywhere.

        ALIGNKIT_PLUGINS, when set, is a comma-separated allowlist of distribution names besides the built-ins.
        """
        allowed = os.environ.get("ALIGNKIT_PLUGINS")
        allowlist = None if allowed is None else {_normal(n) for n in allowed.split(",")} | {BUILTIN_DISTRIBUTION}
        disabled = {_normal(n): n for n in disable}
        known: set[str] = set()
        for dist, entry in sorted(self._entry_points(), key=_load_order):
            name = _normal(dist.name)
            known |= {name, _normal(entry.name)}
            if disabled.keys() & {name, _normal(entry.name)}:
                self.left_out[entry.name] = "plugins.disable"
            elif allowlist is not None and name not in allowlist:
                self.left_out[entry.name] = f"{dist.name} is not in ALIGNKIT_PLUGINS"
            else:
                self._load(entry, dist)
        for name in sorted(disabled.keys() - known):
            logger.warning("plugins.disable names %s, and no such plugin is installed", disabled[name])

    def _entry_points(self) -> Iterator[tuple[Distribution, EntryPoint]]:
        seen: set[tuple[str, str]] = set()
        for dist in distributions():
            for entry in self._entries(dist):
                # A distribution without a name is what an interrupted pip leaves behind.
                if entry.group != ENTRY_POINT_GROUP or "Name" not in dist.metadata:
                    continue
                # The first distribution on sys.path wins, as for imports; an editable install can be listed twice.
                if (dist.name, entry.name) not in seen:
                    seen.add((dist.name, entry.name))
                    yield dist, entry

    def _entries(self, dist: Distribution) -> Iterable[EntryPoint]:
        try:
            return dist.entry_points
        except Exception as error:  # any distribution on the machine may have a damaged file
            if f"[{ENTRY_POINT_GROUP}]" in (dist.read_text("entry_points.txt") or ""):
                problem = f"its entry points cannot be read: {error}"
                self.plugins.append(PluginStatus("entry_points.txt", dist.name, dist.version, problem))
            return ()

    def _load(self, entry: EntryPoint, dist: Distribution) -> None:
        status = PluginStatus(entry.name, dist.name, dist.version)
        self.plugins.append(status)
        try:
            plugin = entry.load()
        # A module may call sys.exit when something it needs is missing.
        except (Exception, SystemExit) as error:
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
            status.problem = self._hook_problem(plugin)
            if status.problem is None:
                status.components = self._collect(plugin, status)
        except Exception as error:
            status.problem = f"{type(error).__name__}: {error}"
        if status.problem is not None:
            if self._pluggy.get_plugin(name) is plugin:
                self._pluggy.unregister(plugin)
            return
        for registered in status.components:
            self._components.setdefault((registered.kind, registered.component.name), []).append(registered)

    def _implementations(self, plugin: object) -> list[tuple[pluggy.HookCaller, pluggy.HookImpl]]:
        callers = self._pluggy.get_hookcallers(plugin) or []
        return [(caller, impl) for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin]

    def _hook_problem(self, plugin: object) -> str | None:
        """What pluggy lets pass: misspelled and undecorated hooks, and wrappers, which nothing here would call."""
        every = [n for spec in HOOKSPEC_CLASSES for n in vars(spec) if n.startswith(PROJECT_NAME)]
        own = self._implementations(plugin)
        for caller, impl in own:
            if caller.spec is None and not impl.optionalhook:
                return f"unknown hook {caller.name}{did_you_mean(caller.name, every)}"
            if impl.wrapper or impl.hookwrapper:
                return f"{caller.name} is a hook wrapper; alignkit calls each implementation by itself"
        for name in every:
            function = getattr(plugin, name, None)
            if callable(function) and not any(impl.function == function for _, impl in own):
                return f"{name} is not decorated with @hookimpl"
        return None if own else "implements no alignkit hook"

    def _collect(self, plugin: object, status: PluginStatus) -> list[Registered]:
        found: list[Registered] = []
        functions = [(caller.name, impl.function) for caller, impl in self._implementations(plugin)]
        for kind in KINDS:
            offers: list[Any] = [f() for name, f in functions if name == REGISTRATION_HOOKS[kind]]
            for component in (component for offer in offers for component in offer):
                problem = _component_problem(kind, component)
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
            r for r in self._components.get((kind, plain), []) if not distribution or r.distribution == distribution
        ]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(r.reference for r in found)
            raise UserError(
                f"{kind} {name!r} is offered by several plugins", where=where, hint=f"write one of {choices}"
            )
        hint = f"installed: {', '.join(self.names(kind)) or 'none'}"
        failed = [f"{p.distribution} {p.version} ({p.name}): {p.problem}" for p in self.plugins if p.problem]
        left_out = [f"{name} ({why})" for name, why in self.left_out.items()]
        if failed:
            hint += f". Plugins that failed to load: {'; '.join(failed)}"
        if left_out:
            hint += f". Plugins left out: {', '.join(left_out)}"
        if not failed and not left_out:
            hint += ". A plugin that offers it is installed with pip; `alignkit plugins` lists what is there"
        raise UserError(
            f"no {kind.replace('_', ' ')} {name!r} is installed{did_you_mean(name, self.names(kind))}",
            where=where,
            hint=hint,
        )

    def versions(self) -> dict[str, str]:
        """Distribution -> version of all usable plugins, for the run's record."""
        return {p.distribution: p.version for p in self.plugins if not p.problem}


def _component_problem(kind: Kind, component: object) -> str | None:
    if not isinstance(component, Component):
        return f"expected alignkit.Component, got {type(component).__name__}"
    if component.api != API_VERSION:
        return f"made for api {component.api}, this alignkit has api {API_VERSION}"
    if not (isinstance(component.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", component.name)):
        return "a name has letters, digits, dot, _ and - only"
    if not (isinstance(component.config, type) and issubclass(cast("type", component.config), BaseModel)):
        return "config is not a pydantic model class"
    taken = [key for key in RECIPE_KEYS.get(kind, ("name",)) if key in component.config.model_fields]
    if taken:
        return f"its config has a field {taken[0]!r}, a key that recipes use themselves"
    return None if callable(component.build) else "build is not callable"


def _normal(name: str) -> str:
    """Distribution names are equal whatever their case and separators (PyPA name normalisation)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _load_order(found: tuple[Distribution, EntryPoint]) -> tuple[bool, str, str]:
    """Built-ins first, so that no stranger can take one of their names by standing earlier in the alphabet."""
    dist, entry = found
    return dist.name != BUILTIN_DISTRIBUTION, dist.name, entry.name
