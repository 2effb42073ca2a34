"""Loads plugins one by one and resolves components by kind and name.

One that cannot be used (import error, unknown hook, wrong argument, incompatible api, clashing name) is recorded with
its distribution and version; it never breaks a recipe that does not name it.
"""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pluggy

from alignkit import components
from alignkit.components import KINDS, Kind
from alignkit.errors import AlignkitDeprecationWarning, UserError, did_you_mean
from alignkit.hookspecs import HOOKSPEC_CLASSES, PROJECT_NAME, REGISTRATION_HOOKS, Transform
from alignkit.manager.installed import installed_plugins, normal
from alignkit.manager.loading import contained, import_quietly
from alignkit.manager.local import LOCAL_DISTRIBUTION, home_filled_in, import_plugin, plugins_in, version_of
from alignkit.manager.refusal import (
    Implementations,
    Refusal,
    api_problem,
    component_problem,
    config_problem,
    hook_problem,
)
from alignkit.manager.registered import BUILTIN_DISTRIBUTION, PluginStatus, Registered

logger = logging.getLogger("alignkit")

FOLDERS_VARIABLE = "ALIGNKIT_PLUGINS_DIR"


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

    def load(self, disable: Iterable[str] = (), folders: Sequence[Path] = ()) -> None:
        """Load every installed plugin, then those in `folders` and in the folders that ALIGNKIT_PLUGINS_DIR lists.

        ALIGNKIT_PLUGINS, when set, is a comma-separated allowlist of distribution names besides the built-ins; a
        folder that was given by name needs no further leave. `disable`: names of plugins or distributions.
        """
        disabled = {normal(n): n for n in disable}
        known = self._load_installed(disabled)
        listed = [Path(p) for p in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if p]
        asked = [(folder, "--plugins-dir") for folder in folders] + [(folder, FOLDERS_VARIABLE) for folder in listed]
        for folder, where in asked:
            for path in plugins_in(home_filled_in(folder), where):
                known |= {LOCAL_DISTRIBUTION, normal(path.stem)}
                if disabled.keys() & {LOCAL_DISTRIBUTION, normal(path.stem)}:
                    self.left_out[path.stem] = "plugins.disable"
                else:
                    self.load_file(path)
        for name in sorted(disabled.keys() - known):
            logger.warning("plugins.disable names %s, and no such plugin is installed", disabled[name])

    def _load_installed(self, disabled: dict[str, str]) -> set[str]:
        """Load entry points; return the names, of plugins and distributions, that were there."""
        allowed = os.environ.get("ALIGNKIT_PLUGINS")
        allowlist = None if allowed is None else {normal(n) for n in allowed.split(",")} | {BUILTIN_DISTRIBUTION}
        found, damaged = installed_plugins()
        self.plugins += damaged
        known: set[str] = set()
        for plugin in found:
            names = {normal(plugin.distribution), normal(plugin.entry.name)}
            known |= names
            if disabled.keys() & names:
                self.left_out[plugin.entry.name] = "plugins.disable"
            elif allowlist is not None and normal(plugin.distribution) not in allowlist:
                self.left_out[plugin.entry.name] = f"{plugin.distribution} is not in ALIGNKIT_PLUGINS"
            else:
                status = plugin.new_status()
                if normal(plugin.distribution) == LOCAL_DISTRIBUTION:
                    status.problem = "the distribution name `local` means plugins that are not installed"
                    self.plugins.append(status)
                    continue
                self.register(import_quietly(status, plugin.entry.value, plugin.entry.load), status)
        for name in sorted((allowlist or set()) - {""} - {normal(plugin.distribution) for plugin in found}):
            logger.warning("ALIGNKIT_PLUGINS names %s, and no such distribution with plugins is installed", name)
        return known

    def load_file(self, path: Path) -> PluginStatus:
        """Load one file or package folder as a plugin of the distribution `local`; a second time changes nothing."""
        source = str(path.resolve())
        for known in self.plugins:
            if known.kind == "file" and known.source == source:
                return known
        status = PluginStatus(path.stem, LOCAL_DISTRIBUTION, "?", kind="file", source=source)

        def load() -> object:
            status.version = version_of(path)  # in here, as a file may be unreadable
            return import_plugin(path.absolute(), status.version)

        self.register(import_quietly(status, path.name, load), status)
        return status

    def register(self, plugin: object | None, status: PluginStatus) -> None:
        """Register one plugin object (None: it could not be loaded); on any problem roll it back and say why."""
        if status not in self.plugins:
            self.plugins.append(status)
        if plugin is None:
            status.problem = status.problem or f"{status.source or status.name} is None"
            return
        with contained(status), self._warnings_named(status):
            if self._pluggy.has_plugin(status.key):
                raise Refusal(f"there already is a plugin {status.key}")
            twin = next((name for name, known in self._pluggy.list_name_plugin() if known is plugin), None)
            if twin is not None:
                raise Refusal(f"it is the same module or object as the plugin {twin}")
            self._pluggy.register(plugin, name=status.key)
            own = self._implementations(plugin)
            status.problem = hook_problem(plugin, own)
            if status.problem is None:
                status.components = self._collect(own, status)
        if status.problem is not None:
            if self._pluggy.get_plugin(status.key) is plugin:
                self._pluggy.unregister(plugin)
            status.components = []
            return
        for registered in status.components:
            self._components.setdefault((registered.kind, registered.component.name), []).append(registered)

    @contextmanager
    def _warnings_named(self, status: PluginStatus) -> Iterator[None]:
        """Deprecation warnings (also pluggy's, of a deprecated hook) get the plugin's name and are kept."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if issubclass(warning.category, AlignkitDeprecationWarning):
                status.warnings.append(str(warning.message))
                warnings.warn(f"plugin {status.owner}: {warning.message}", warning.category, stacklevel=4)
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def _implementations(self, plugin: object) -> Implementations:
        callers = self._pluggy.get_hookcallers(plugin) or []
        return [(caller, impl) for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin]

    def _collect(self, own: Implementations, status: PluginStatus) -> list[Registered]:
        found: list[Registered] = []
        functions = [(caller.name, impl.function) for caller, impl in own]
        for kind in KINDS:
            offers: list[Any] = [f() for name, f in functions if name == REGISTRATION_HOOKS[kind]]
            for component in (component for offer in offers for component in offer):
                shown = f"{kind} {getattr(component, 'name', component)!r}"
                problem = component_problem(kind, component) or api_problem(component.api)
                # Those of this distribution are known to work, and building them all would be dear.
                if problem is None and status.distribution != BUILTIN_DISTRIBUTION:
                    problem = config_problem(component.config)
                if problem:
                    raise Refusal(f"{shown}: {problem}")
                if component.api < components.API_VERSION:
                    text = f"{shown} is made for api {component.api}, and the newest is {components.API_VERSION}"
                    warnings.warn(text, AlignkitDeprecationWarning, stacklevel=2)
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
                raise Refusal(f"{new.kind} {new.component.name!r} is registered twice")
            if other.distribution == BUILTIN_DISTRIBUTION:
                raise Refusal(f"{new.kind} {new.component.name!r} is a built-in name; choose another")

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
            if not distribution or normal(r.distribution) == normal(distribution)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(r.reference for r in found)
            raise UserError(
                f"{kind} {name!r} is offered by several plugins", where=where, hint=f"write one of {choices}"
            )
        raise UserError(
            f"no {kind.replace('_', ' ')} {name!r} is installed{did_you_mean(name, self.names(kind))}",
            where=where,
            hint=self._why_not(kind),
        )

    def _why_not(self, kind: Kind) -> str:
        hint = f"installed: {', '.join(self.names(kind)) or 'none'}. Others come with a plugin: pip install its package"
        failed = [f"{p.owner}: {p.problem}" for p in self.plugins if p.problem]
        left_out = [f"{name} ({why})" for name, why in self.left_out.items()]
        if failed:
            hint += f". Plugins that failed to load: {'; '.join(failed)}"
        if left_out:
            hint += f". Plugins left out: {', '.join(left_out)}"
        return hint + "; `alignkit plugins` lists what is there"

    @staticmethod
    def strict_by_environment() -> bool:
        """Whether ALIGNKIT_STRICT_PLUGINS asks for strictness."""
        return os.environ.get("ALIGNKIT_STRICT_PLUGINS", "").lower() not in ("", "0", "false", "no", "off")

    def require_all(self, where: str | None = None) -> None:
        """Strict: raise UserError if any plugin failed."""
        failed = [f"{p.owner}: {p.problem}" for p in self.plugins if p.problem]
        if failed:
            raise UserError(
                f"{len(failed)} plugin(s) failed to load: {'; '.join(failed)}",
                where=where,
                hint="mend or remove them, leave them out with plugins: {disable: […]}, or do without strict plugins",
            )

    def transforms(self) -> list[PluginStatus]:
        """Plugins that implement a transform hook: what they do changes results."""
        names = [name for name in vars(Transform) if name.startswith(PROJECT_NAME)]
        own = {impl.plugin_name for name in names for impl in getattr(self.hook, name).get_hookimpls()}
        return [p for p in self.plugins if p.key in own]

    def versions(self) -> dict[str, str]:
        """Distribution -> version of all usable plugins, for the run's record; local ones each by `local:NAME`."""
        usable = [p for p in self.plugins if not p.problem]
        return {p.key if p.kind == "file" else p.distribution: p.version for p in usable}
