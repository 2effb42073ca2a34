"""Components broken on purpose, each of which one check of a conformance suite has to notice."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from alignkit import Component, hookimpl
from alignkit.hookspecs import REGISTRATION_HOOKS
from alignkit.testing import ComponentContract


@dataclass(frozen=True)
class Fault:
    """A broken component, the check that has to fail, and what else the suite's class says (options, …).

    `name` tells several faults of one check apart.
    """

    check: str
    component: Component
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


def checks_of(contract: type[ComponentContract], own: bool = True) -> set[str]:
    """Names of a suite's checks; with `own` without those that it has from `ComponentContract`."""
    found = {name for name in dir(contract) if name.startswith("test_") and callable(getattr(contract, name))}
    return found - (checks_of(ComponentContract, own=False) if own else set())


def planted(contract: type[ComponentContract], faults: Sequence[Fault]) -> dict[str, type]:
    """A test class per fault, to be put into a test module's globals: its one check is expected to fail.

    `strict`: a fault that goes unnoticed is a failure of the test. `raises`: so is one that breaks something else.
    """
    classes: dict[str, type] = {}
    for fault in faults:
        others: Iterable[str] = checks_of(contract, own=False) - {fault.check}
        assert hasattr(contract, fault.check), fault.check
        words = "".join(part.title() for part in f"{fault.check}_{fault.name}".split("_"))
        name = f"{words}Of{contract.__name__}"
        attributes = {
            "component": fault.component.name,
            "plugin": plugin_of(contract, fault.component),
            **fault.attributes,
            **dict.fromkeys(others),
        }
        assert name not in classes, f"two faults of {fault.check}: give them names"
        found = (AssertionError, pytest.fail.Exception)
        expected = pytest.mark.xfail(strict=True, raises=found, reason="the planted fault has to be found")
        classes[name] = expected(type(name, (contract,), attributes))
    return classes


def plugin_of(contract: type[ComponentContract], component: Component) -> ModuleType:
    """A module that registers the component and nothing else."""
    plugin = ModuleType("planted")
    setattr(plugin, REGISTRATION_HOOKS[contract.kind], hookimpl(lambda: [component]))
    return plugin
