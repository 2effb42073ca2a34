"""Whether what a component's `build` returned keeps to the Protocol of its kind."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from alignkit import protocols
from alignkit.components import Kind

# Where there are several, a component has to satisfy one of them.
PROTOCOLS: dict[Kind, tuple[type, ...]] = {
    "policy": (protocols.Policy,),
    "reward_source": (protocols.Scores, protocols.Annotates),
    "advantage": (protocols.Advantage,),
    "optimizer_stage": (protocols.DataStage, protocols.RolloutStage),
    "step": (protocols.Step,),
    "sampler": (protocols.Sampler,),
    "data_format": (protocols.DataFormat,),
    "kernel": (protocols.Kernel,),
    "tracker": (protocols.Tracker,),
    "launcher": (protocols.Launcher,),
}


def missing(kind: Kind, built: object) -> list[str]:
    """What `built` lacks of the contract of its kind: absent members, and methods that refuse its arguments."""
    if kind == "command":
        import click

        return [] if isinstance(built, click.Command) else [f"what it built is no click.Command but {_type(built)}"]
    if built is None:
        return ["what it built is None"]
    lacks = {protocol: _lacks(protocol, built) for protocol in PROTOCOLS[kind]}
    kept = [protocol for protocol, problems in lacks.items() if not problems]
    tried = [protocol for protocol in lacks if _tries(protocol, built)]
    if kept:
        # It may do the work of the other Protocol too; then it has to do that as agreed.
        return [p for protocol in tried if _has_all(protocol, built) for p in lacks[protocol]]
    if len(lacks) > 1 and not tried:
        wanted = (f"{', '.join(_shown(*m) for m in members(p).items())} ({p.__name__})" for p in lacks)
        return [f"neither {' nor '.join(wanted)}"]
    return [problem for protocol in tried or lacks for problem in lacks[protocol]]


def members(protocol: type) -> dict[str, Any]:
    """Name -> the function, property or (for plain attributes) None of everything that a Protocol asks for."""
    found: dict[str, Any] = {}
    for base in protocol.__mro__:
        if getattr(base, "_is_protocol", False) and base.__module__ == protocols.__name__:
            for name in vars(base).get("__annotations__", {}):
                found.setdefault(name, None)
            for name, value in vars(base).items():
                if (not name.startswith("_") or name == "__call__") and (
                    inspect.isfunction(value) or isinstance(value, property)
                ):
                    found.setdefault(name, value)
    return found


def _lacks(protocol: type, built: object) -> list[str]:
    problems = (_problem(name, wanted, built) for name, wanted in members(protocol).items())
    return [problem for problem in problems if problem is not None]


def _problem(name: str, wanted: Any, built: object) -> str | None:
    if not _has(built, name) or inspect.getattr_static(type(built), name, None) is wanted is not None:
        return f"{_shown(name, wanted)} is missing"  # absent, or the empty body of a Protocol that was subclassed
    if not inspect.isfunction(wanted):
        return None
    method = built if name == "__call__" else getattr(built, name)
    if not callable(method):
        return f"{_shown(name, wanted)}: it is no method but {_type(method)}"
    refused = _refused(method, wanted)
    return f"{_shown(name, wanted)}: it does not take {refused}" if refused else None


def _refused(method: Callable[..., Any], wanted: Callable[..., Any]) -> str | None:
    """The arguments, as the engine would give them, that `method` does not take."""
    try:
        signature = inspect.signature(method)
    except (ValueError, TypeError):  # builtins and extension types may have none
        return None
    parameters = list(_parameters(wanted))
    needed = [p for p in parameters if p.default is p.empty]
    optional = {p.name: p.default for p in parameters if p.default is not p.empty}
    for given in ({}, optional):
        try:
            signature.bind(*needed, **given)
        except TypeError as error:
            words = [p.name for p in needed] + [f"{name}=…" for name in given]
            return f"({', '.join(words)}): {error}"
    return None


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    return (p for p in inspect.signature(function).parameters.values() if p.name != "self")


def _has(built: object, name: str) -> bool:
    """Without calling a property: it may be dear, or fail before the work has begun."""
    if name == "__call__":
        return callable(built)
    try:
        inspect.getattr_static(built, name)
    except AttributeError:
        return hasattr(built, name)  # an object may forward to another one (`__getattr__`)
    return True


def _tries(protocol: type, built: object) -> bool:
    """Whether a method of the Protocol is there, fitting or not."""
    return any(_has(built, name) for name, wanted in members(protocol).items() if inspect.isfunction(wanted))


def _has_all(protocol: type, built: object) -> bool:
    return all(_has(built, name) for name in members(protocol))


def _shown(name: str, wanted: Any) -> str:
    if not inspect.isfunction(wanted):
        return name
    return f"{name}({', '.join(p.name for p in _parameters(wanted))})"


def _type(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
