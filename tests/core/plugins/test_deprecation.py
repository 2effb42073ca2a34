"""What is deprecated says so with its plugin's name, whether it is a hook, an api, a component or an option."""

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
from pydantic import Field

from alignkit import Component, components, hookimpl
from alignkit.components import Config
from alignkit.errors import AlignkitDeprecationWarning
from alignkit.manager import PluginManager, PluginStatus
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve
from alignkit.recipe.source import Lines


class OldHooks:
    """A hook on its way out."""

    @pluggy.HookspecMarker("alignkit")(warn_on_impl=AlignkitDeprecationWarning("alignkit_old is now alignkit_new"))
    def alignkit_old(self) -> None:
        """Nothing."""


def register(plugin: Any, manager: PluginManager | None = None) -> PluginStatus:
    """Register as plugin `p` of `dist` 1.5."""
    status = PluginStatus("p", "dist", "1.5")
    (manager or PluginManager()).register(plugin, status)
    return status


def test_a_deprecated_hook_is_reported_with_the_plugins_name() -> None:
    manager = PluginManager()
    manager._pluggy.add_hookspecs(OldHooks)
    plugin = SimpleNamespace(alignkit_old=hookimpl(lambda: None))
    with pytest.warns(AlignkitDeprecationWarning, match=r"plugin dist 1.5 \(p\): alignkit_old is now alignkit_new"):
        status = register(plugin, manager)
    assert status.problem is None
    assert status.warnings == ["alignkit_old is now alignkit_new"]
    with warnings.catch_warnings():  # the doctor tells it to people who do not want to see warnings
        warnings.simplefilter("ignore")
        quiet = PluginManager()
        quiet._pluggy.add_hookspecs(OldHooks)
        assert register(plugin, quiet).warnings == status.warnings


def test_an_old_api_in_range_loads_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "OLDEST_API", 2)
    monkeypatch.setattr(components, "API_VERSION", 3)

    def offering(api: int) -> Any:
        return SimpleNamespace(alignkit_steps=hookimpl(lambda: [Component("s", print, api=api)]))

    with pytest.warns(AlignkitDeprecationWarning, match=r"dist 1.5 \(p\): step 's' is made for api 2"):
        assert register(offering(2)).problem is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register(offering(3)).problem is None
        for api in (1, 4):
            assert f"made for api {api}, this alignkit has api 2 to 3" in str(register(offering(api)).problem)


class Inner(Config):
    """A model inside."""

    width: int = Field(1, deprecated="it has no effect")
    depth: int = 1


class Options(Config):
    """One option of three is on its way out, and one of the model inside."""

    speed: float = Field(1.0, deprecated="use pace")
    pace: float = 1.0
    plain: bool = Field(False, deprecated=True)
    inner: Inner = Inner()
    more: list[Inner] | None = None


def warned(options: dict[str, Any], deprecated: str = "", lines: Lines | None = None) -> list[str]:
    """Warnings of a recipe that gives these options."""
    manager = PluginManager()
    component = Component("old", print, Options, deprecated=deprecated)
    register(SimpleNamespace(alignkit_samplers=hookimpl(lambda: [component])), manager)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resolve(manager, "sampler", ComponentSpec(name="old", **options), lines)
    assert all(w.category is AlignkitDeprecationWarning for w in caught)
    return [str(w.message) for w in caught]


def test_only_options_that_the_recipe_gives_warn() -> None:
    lines = Lines("r.yaml", {(): 1, ("speed",): 7})
    assert warned({"pace": 2.0}, lines=lines) == []
    assert warned({"speed": 2.0}, lines=lines) == [
        "r.yaml:7: dist 1.5: sampler 'old': the option speed is deprecated: use pace"
    ]
    assert [re.sub(".*the ", "", w) for w in warned({"plain": True, "inner": {"width": 2}}, lines=lines)] == [
        "option plain is deprecated: deprecated",
        "option inner.width is deprecated: it has no effect",
    ]
    assert [re.sub(".*the ", "", w) for w in warned({"more": [{}, {"width": 2}]}, lines=lines)] == [
        "option more.1.width is deprecated: it has no effect",
    ]


def test_a_deprecated_component_says_what_to_use() -> None:
    lines = Lines("r.yaml", {(): 1})
    assert warned({}, "use `new`", lines) == ["r.yaml:1: dist 1.5: sampler 'old' is deprecated: use `new`"]
    assert warned({}, "use `new`") == []  # while building, the recipe was checked before


def test_the_warning_is_shown_by_default() -> None:
    # Python hides DeprecationWarning from everybody but the author of the main module.
    assert issubclass(AlignkitDeprecationWarning, FutureWarning)


def test_the_command_line_shows_one_tidy_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    from alignkit.deprecations import show_deprecations

    def warn() -> None:
        show_deprecations()
        for _ in range(2):
            warnings.warn("r.yaml:7: use pace", AlignkitDeprecationWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="something else") as others:
        warn()
    assert capsys.readouterr().err == "warning: r.yaml:7: use pace\n"
    assert len(others) == 1
