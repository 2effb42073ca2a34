"""How a suite finds what it looks at."""

from types import ModuleType
from typing import Any

import pytest

from alignkit import Component, hookimpl
from alignkit.components import NoConfig
from alignkit.testing import AdvantageContract
from alignkit.testing.registration import heavy_imports, is_installed, manager_with
from alignkit_plugins.advantage_gae import plugin as gae_plugin
from helpers import heavy_plugin


def module(hook: Any) -> ModuleType:
    found = ModuleType("someone")
    found.alignkit_advantages = hook  # type: ignore[attr-defined]
    return found


class InstalledModule(AdvantageContract):
    component = "gae"
    plugin = gae_plugin


class OtherModule(AdvantageContract):
    component = "broken"
    plugin = heavy_plugin


def test_an_installed_module_is_not_registered_twice() -> None:
    assert is_installed(gae_plugin)
    assert manager_with(gae_plugin).get("advantage", "gae").distribution == "alignkit"
    assert InstalledModule().resolved({"lam": 0.5}).lam == 0.5  # type: ignore[attr-defined]


def test_a_module_stands_beside_the_installed_plugins() -> None:
    assert not is_installed(heavy_plugin)
    assert manager_with(heavy_plugin).get("advantage", "under-test:broken").plugin == "helpers.heavy_plugin"
    assert "gae" in manager_with(heavy_plugin).names("advantage")
    OtherModule().resolved({})


def test_a_module_that_cannot_be_used_says_why() -> None:
    taken = module(hookimpl(lambda: [Component("gae", lambda c, _: None, NoConfig, "someone's")]))
    with pytest.raises(pytest.fail.Exception, match="built-in name"):
        manager_with(taken)
    with pytest.raises(pytest.fail.Exception, match="not decorated"):
        manager_with(module(lambda: []))


def test_heavy_imports_are_seen_and_light_ones_are_not() -> None:
    assert "torch" in heavy_imports("helpers.heavy_plugin")
    assert heavy_imports("alignkit_plugins.advantage_gae.plugin") == []
    with pytest.raises(AssertionError, match="no_such_module"):
        heavy_imports("no_such_module")
