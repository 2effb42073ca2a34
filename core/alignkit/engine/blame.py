"""Whose fault an error was: a stranger's plugin, the machine's memory or disk, or our own.

A stranger's code is called in many places of a run. Here, in one place, its exceptions get its name: by the innermost
frame of the traceback that belongs to the package of a registered plugin.
"""

import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from alignkit.engine.memory import memory_fault, option_sizes
from alignkit.engine.storage import storage_error
from alignkit.errors import ENDINGS, AlignkitError, Fault, out_of_memory, said_by
from alignkit.manager import BUILTIN_DISTRIBUTION, PluginManager, PluginStatus
from alignkit.recipe.model import ComponentSpec
from alignkit.redact import redact

FAILURE = "failure.txt"
OURS = ("alignkit", "alignkit_plugins", "alignkit_kernels")
# `Reward.score() takes 1 positional argument but 2 were given`: the function was called and never entered.
NOT_ENTERED = re.compile(r"\b([\w.<>]{1,300})\(\) (?:takes|got|missing)\b")


def explained(
    error: BaseException, manager: PluginManager, folder: Path, step: ComponentSpec | None = None
) -> BaseException:
    """What to raise for an error that ended a step: a Fault that names the culprit, or for a bug of ours the error.

    The whole traceback goes to `failure.txt` in `folder`. A lack of memory is said with the sizes among the options of
    `step`.
    """
    if isinstance(error, (AlignkitError, *ENDINGS)):
        if isinstance(error, Fault) and _from_elsewhere(error):
            error.hint = f"{error.hint}; {_saved(error, folder)}" if error.hint else _saved(error, folder)
        return error
    found = storage_error(error, folder)
    if found is not None:
        return found
    if out_of_memory(error):
        fault = memory_fault(error, option_sizes(manager, "step", step) if step is not None else None)
        fault.hint = f"{fault.hint}\n     {_saved(error, folder)}"
        return fault
    culprit = culprit_of(error, manager)
    if culprit is None:
        return error
    return Fault(
        f"{culprit.plugin.owner} failed in {culprit.function}: {said_by(error)}",
        where=culprit.place,
        hint=f"{_saved(error, folder)}; mend or update the plugin and run the same command again",
    )


class Culprit:
    """A plugin's function in which an error arose."""

    def __init__(self, plugin: PluginStatus, function: str, place: str | None) -> None:
        self.plugin = plugin
        self.function = function
        self.place = place


def culprit_of(error: BaseException, manager: PluginManager) -> Culprit | None:
    """The innermost place of a stranger's code on the way to the error, or to one that it was raised from."""
    for link in _chain(error):
        found: Culprit | None = None
        for frame, line in traceback.walk_tb(link.__traceback__):
            plugin = owner_of(str(frame.f_globals.get("__name__", "")), manager)
            if plugin is not None:
                found = Culprit(plugin, frame.f_code.co_qualname, f"{frame.f_code.co_filename}:{line}")
        found = _never_entered(link, manager) or found
        if found is not None:
            return found
    return None


def owner_of(module: str, manager: PluginManager) -> PluginStatus | None:
    """The stranger's plugin whose package a module belongs to; of two that share a namespace, the closer one."""
    best: tuple[int, PluginStatus | None] = (0, None)
    parts = module.split(".")
    for plugin in manager.plugins:
        if plugin.distribution == BUILTIN_DISTRIBUTION:
            continue
        for package in _packages(plugin):
            own = package.split(".")
            same = next((n for n, (a, b) in enumerate(zip(parts, own, strict=False)) if a != b), None)
            shared = min(len(parts), len(own)) if same is None else same
            if shared > best[0]:
                best = (shared, plugin)
    return best[1]


def clear_failure(folder: Path) -> None:
    """Remove what an earlier try left behind; for a step that begins or goes on."""
    (folder / FAILURE).unlink(missing_ok=True)


def _packages(plugin: PluginStatus) -> Iterator[str]:
    """Modules that the plugin is known by: that of its entry point, and those its components come from."""
    names = [plugin.source.partition(":")[0]] if plugin.kind == "entry_point" else []
    for registered in plugin.components:
        component = registered.component
        names += [str(getattr(part, "__module__", "")) for part in (component.build, component.config)]
    for name in names:
        root = name.partition(".")[0]
        if root and root not in OURS and root not in sys.stdlib_module_names:
            yield name


def _from_elsewhere(fault: Fault) -> bool:
    """Whether the Fault was made of another exception, whose traceback says more."""
    return any(not isinstance(link, AlignkitError) for link in _chain(fault))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and the members of a group."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        context = None if link.__suppress_context__ else link.__context__
        waiting += [e for e in (*inner, link.__cause__, context) if e is not None]


def _never_entered(error: BaseException, manager: PluginManager) -> Culprit | None:
    """A stranger's function that does not take what it is called with has no frame, only its name in the message."""
    named = NOT_ENTERED.search(str(error)) if isinstance(error, TypeError) else None
    frames: list[FrameType] = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if named is None or not frames or owner_of(str(frames[-1].f_globals.get("__name__", "")), manager) is not None:
        return None
    top = named[1].partition(".")[0]
    for name, module in list(sys.modules.items()):
        plugin = owner_of(name, manager) if hasattr(module, "__dict__") and top in vars(module) else None
        if plugin is not None and getattr(vars(module)[top], "__module__", None) == name:
            return Culprit(plugin, named[1], getattr(module, "__file__", None))
    return None


def _saved(error: BaseException, folder: Path) -> str:
    """Write the traceback; says where it is. A disk that is full must not hide the error itself."""
    path = folder / FAILURE
    try:
        path.write_text(redact("".join(traceback.format_exception(error))), encoding="utf-8", errors="backslashreplace")
    except OSError as refused:
        return f"the traceback could not be saved ({said_by(refused)})"
    return f"the whole traceback is in {path}"
