"""Plugins are loaded alone: a broken one is named with distribution, version and reason, and breaks nothing else."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignkit import API_VERSION, Component, UserError, hookimpl
from alignkit.manager import PluginManager, PluginStatus

Load = Callable[..., PluginManager]
Install = Callable[..., Path]

BUILTIN_PLUGINS = 41
HEAD = "from alignkit import Component, hookimpl\n"


def advantage(name: str = "mine", **more: str) -> str:
    """Code of a plugin with one advantage estimator."""
    arguments = "".join(f", {key}={value}" for key, value in more.items())
    build = "" if "build" in more else ", build=lambda config, context: None"
    component = f"Component(name={name!r}{build}{arguments})"
    return HEAD + f"@hookimpl\ndef alignkit_advantages():\n    return [{component}]\n"


def status(manager: PluginManager, name: str) -> PluginStatus:
    """What became of the plugin `name`."""
    return next(p for p in manager.plugins if p.name == name)


def builtins(manager: PluginManager) -> list[PluginStatus]:
    """The project's own plugins."""
    return [p for p in manager.plugins if p.distribution == "alignkit"]


BROKEN = {
    "import error": (
        "import no_such_module_anywhere\n",
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    ),
    "syntax error": ("def broken(:\n", "SyntaxError"),
    "exit at import": ("import sys\nsys.exit('needs a GPU')\n", "SystemExit: needs a GPU"),
    "wrong argument": (HEAD + "@hookimpl\ndef alignkit_run_start(rum):\n    pass\n", "rum"),
    "misspelled hook": (
        HEAD + "@hookimpl\ndef alignkit_advantage():\n    return []\n",
        "unknown hook alignkit_advantage (did you mean 'alignkit_advantages'?)",
    ),
    "no decorator": (
        HEAD + "@hookimpl\ndef alignkit_steps():\n    return []\ndef alignkit_trackers():\n    return []\n",
        "alignkit_trackers is not decorated with @hookimpl",
    ),
    "no hook": ("x = 1\n", "implements no alignkit hook"),
    "wrapper": (
        HEAD + "@hookimpl(wrapper=True)\ndef alignkit_run_start(run):\n    return (yield)\n",
        "alignkit_run_start is a hook wrapper",
    ),
    "duplicate in one plugin": (
        HEAD + "c = Component('mine', print)\n@hookimpl\ndef alignkit_advantages():\n    return [c, c]\n",
        "advantage 'mine' is registered twice",
    ),
    "reserved name": (advantage("gae"), "advantage 'gae' is a built-in name"),
    "wrong api": (advantage(api="99"), f"made for api 99, this alignkit has api {API_VERSION}"),
    "config is no model": (advantage(config="dict"), "config is not a pydantic model class"),
    "config is an instance": (advantage(config="1"), "config is not a pydantic model class"),
    "not a component": (
        HEAD + "@hookimpl\ndef alignkit_advantages():\n    return [{'name': 'mine'}]\n",
        "expected alignkit.Component, got dict",
    ),
    "returns nothing": (HEAD + "@hookimpl\ndef alignkit_advantages():\n    pass\n", "NoneType"),
    "raises": (HEAD + "@hookimpl\ndef alignkit_advantages():\n    raise OSError('no key')\n", "OSError: no key"),
    "impossible name": (advantage("a:b"), "a name has letters"),
    "build missing": (advantage(build="None"), "build is not callable"),
    "config uses a recipe key": (
        "from pydantic import BaseModel\nclass C(BaseModel):\n    name: str\n" + advantage(config="C"),
        "field 'name'",
    ),
    "own kind of exit at import": (
        "class Skipped(BaseException):\n    pass\nraise Skipped('no GPU')\n",
        "import of broken_plugin failed: Skipped: no GPU",
    ),
    "exit in a hook": (
        HEAD + "import sys\n@hookimpl\ndef alignkit_advantages():\n    sys.exit('no licence')\n",
        "SystemExit: no licence",
    ),
    "fails half-way through its components": (
        HEAD + "@hookimpl\ndef alignkit_advantages():\n    yield Component('mine', print)\n    1 / 0\n",
        "ZeroDivisionError",
    ),
    "unknown argument of Component": (advantage(licence="'MIT'"), "unexpected keyword argument 'licence'"),
    "api that is no number": (advantage(api="'1'"), "made for api 1, this alignkit has api"),
    "summary that is no text": (advantage(summary="3"), "summary is not text"),
    "check that is no function": (advantage(check="3"), "check is not callable"),
    "config of a type that pydantic cannot check": (
        "from alignkit.components import Config\nclass Odd: pass\nclass C(Config):\n    odd: Odd\n"
        + advantage(config="C"),
        "its config cannot be used: PydanticSchemaGenerationError",
    ),
    "config of a type that is not there": (
        "from alignkit.components import Config\nclass C(Config):\n    odd: 'NoSuchType'\n" + advantage(config="C"),
        "its config cannot be used: PydanticUndefinedAnnotation",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_plugin_is_isolated_and_its_reason_reported(case: str, install: Install, load: Load) -> None:
    code, reason = BROKEN[case]
    install("broken-dist", "4.5", broken_plugin=code)
    install("zz-good", "1.0", zz_good=advantage("good"))
    manager = load()
    broken = status(manager, "broken_plugin")
    assert broken.status == "failed"
    assert broken.problem is not None
    assert reason in broken.problem
    assert (broken.distribution, broken.version) == ("broken-dist", "4.5")
    assert broken.components == []
    assert "broken-dist" not in manager.versions()
    # Nothing else is touched: built-ins and a later stranger work.
    assert [p.problem for p in builtins(manager)] == [None] * BUILTIN_PLUGINS
    assert manager.get("advantage", "gae").distribution == "alignkit"
    assert manager.get("advantage", "good").distribution == "zz-good"
    assert "broken-dist:broken_plugin" not in [name for name, _ in manager._pluggy.list_name_plugin()]
    # A recipe that names what is missing is told why.
    with pytest.raises(UserError, match="no advantage 'mine_too' is installed") as caught:
        manager.get("advantage", "mine_too", where="recipe.yaml:3")
    assert caught.value.where == "recipe.yaml:3"
    assert caught.value.hint is not None
    assert f"broken-dist 4.5 (broken_plugin): {broken.problem}" in caught.value.hint


def test_every_failure_class_is_covered() -> None:
    assert len(BROKEN) == 28


def test_what_a_noisy_import_prints_goes_to_stderr(
    install: Install, load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    install("noisy-dist", "1.0", noisy_mod="print('made with love')\n" + advantage("noisy"))
    assert "noisy" in load().names("advantage")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "made with love\n"


def test_seconds_and_large_packages_of_an_import_are_noted(
    install: Install, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = install("slow-dist", "1.0", slow_mod="import time, pandas\ntime.sleep(0.05)\n" + advantage("slow"))
    (info.parent / "pandas.py").write_text("")
    monkeypatch.setitem(sys.modules, "pandas", sys)  # so that what it is now comes back, or goes
    monkeypatch.delitem(sys.modules, "pandas")
    manager = load()
    slow = status(manager, "slow_mod")
    assert slow.seconds >= 0.05
    assert slow.heavy == ("pandas",)
    assert [p.heavy for p in builtins(manager)] == [()] * BUILTIN_PLUGINS


def test_strict_names_every_plugin_that_failed(install: Install, load: Load) -> None:
    load().require_all()
    install("bad-dist", "3.4", bad_mod="1/0\n")
    install("worse-dist", "1.0", worse_mod="import no_such_thing\n")
    with pytest.raises(
        UserError, match=r"2 plugin\(s\) failed to load: bad-dist 3.4 \(bad_mod\).*worse-dist"
    ) as caught:
        load().require_all("recipe.yaml:2")
    assert caught.value.where == "recipe.yaml:2"


def test_later_components_of_a_failing_plugin_are_rolled_back() -> None:
    plugin = SimpleNamespace(
        alignkit_steps=hookimpl(lambda: [Component("fine", print)]),
        alignkit_trackers=hookimpl(lambda: [Component("bad", print, api=99)]),
    )
    manager = PluginManager()
    manager.register(plugin, PluginStatus("p", "d", "1"))
    assert manager.names("step") == []
    assert manager.plugins[0].problem is not None


def test_a_name_that_is_taken_by_another_plugin_object_leaves_the_first_in_place() -> None:
    manager = PluginManager()
    first = SimpleNamespace(alignkit_steps=hookimpl(lambda: [Component("one", print)]))
    second = SimpleNamespace(alignkit_steps=hookimpl(lambda: [Component("two", print)]))
    manager.register(first, PluginStatus("p", "d", "1"))
    manager.register(second, PluginStatus("p", "d", "1"))
    assert manager.names("step") == ["one"]
    assert manager._pluggy.get_plugin("d:p") is first


def test_hook_named_by_specname_counts(load: Load) -> None:
    @hookimpl(specname="alignkit_advantages")
    def estimators() -> list[Component]:
        return [Component("named", print)]

    manager = PluginManager()
    manager.register(SimpleNamespace(estimators=estimators), PluginStatus("p", "d", "1"))
    assert manager.names("advantage") == ["named"]


def test_optional_hook_of_a_newer_alignkit_is_no_error() -> None:
    plugin = SimpleNamespace(
        alignkit_steps=hookimpl(lambda: [Component("s", print)]),
        alignkit_of_the_future=hookimpl(optionalhook=True)(lambda: None),
    )
    manager = PluginManager()
    manager.register(plugin, PluginStatus("p", "d", "1"))
    assert manager.plugins[0].problem is None
    assert manager.names("step") == ["s"]


@pytest.mark.parametrize("stranger", ["aaa-plugin", "zzz-plugin"])
def test_builtin_names_are_reserved_wherever_the_stranger_stands_in_the_alphabet(
    stranger: str, install: Install, load: Load
) -> None:
    install(stranger, "1.0", the_stranger=advantage("gae"))
    manager = load()
    assert manager.get("advantage", "gae").distribution == "alignkit"
    assert "built-in name" in str(status(manager, "the_stranger").problem)


def test_two_strangers_with_one_name_is_an_error_only_when_used(install: Install, load: Load) -> None:
    install("first-dist", "1.0", first_mod=advantage("shared"))
    install("second-dist", "2.0", second_mod=advantage("shared") + "\n# another\n")
    manager = load()
    assert status(manager, "first_mod").problem is None
    assert status(manager, "second_mod").problem is None
    with pytest.raises(UserError, match="offered by several plugins") as caught:
        manager.get("advantage", "shared")
    assert caught.value.hint == "write one of first-dist:shared, second-dist:shared"
    assert manager.get("advantage", "second-dist:shared").version == "2.0"
    assert manager.get("advantage", "Second_Dist:shared").version == "2.0"
    assert manager.get("advantage", "alignkit:gae").plugin == "advantage_gae"
    with pytest.raises(UserError, match="third-dist:shared"):
        manager.get("advantage", "third-dist:shared")


def test_the_name_of_local_plugins_is_reserved(install: Install, load: Load) -> None:
    install("Local", "1.0", odd_mod="1 / 0\n")
    manager = load()
    assert "means plugins that are not installed" in str(status(manager, "odd_mod").problem)
    with pytest.raises(UserError, match="1 plugin"):
        manager.require_all()


def test_unknown_name_suggests_the_nearest(load: Load) -> None:
    with pytest.raises(UserError) as caught:
        load().get("reward_source", "simulatd")
    assert "no reward source 'simulatd' is installed (did you mean 'simulated'?)" in caught.value.what


def test_allowlist_keeps_builtins_and_what_it_names(
    install: Install, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("wanted-dist", "1.0", wanted_mod=advantage("wanted"))
    install("other-dist", "1.0", other_mod="raise RuntimeError('must not be imported')\n")
    monkeypatch.setenv("ALIGNKIT_PLUGINS", "Wanted_Dist")  # names are compared as pip does
    manager = load()
    assert "wanted" in manager.names("advantage")
    assert len(builtins(manager)) == BUILTIN_PLUGINS
    assert all(p.distribution != "other-dist" for p in manager.plugins)
    with pytest.raises(UserError) as caught:
        manager.get("advantage", "other")
    assert "other_mod (other-dist is not in ALIGNKIT_PLUGINS)" in str(caught.value.hint)
    monkeypatch.setenv("ALIGNKIT_PLUGINS", "")
    assert "wanted" not in load().names("advantage")


def test_an_allowlist_with_an_unknown_name_says_so(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("alignkit"), "propagate", True)
    monkeypatch.setenv("ALIGNKIT_PLUGINS", "alignkit-mnip,,Alignkit")
    load()
    assert set(caplog.messages) == {
        "ALIGNKIT_PLUGINS names alignkit-mnip, and no such distribution with plugins is installed"
    }


def test_disable_by_plugin_or_distribution(install: Install, load: Load) -> None:
    install("some-dist", "1.0", some_mod=advantage("some"))
    for name in ("some_mod", "some-dist"):
        manager = load(disable=[name])
        assert "some" not in manager.names("advantage")
        assert manager.left_out == {"some_mod": "plugins.disable"}
        assert "gae" in manager.names("advantage")
    assert load(disable=["alignkit"]).names("advantage") == ["some"]


def test_disabling_what_is_not_there_is_said(
    load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("alignkit"), "propagate", True)
    load(disable=["Reward_Humann", "reward.human"])
    # a set: pytest also listens to a logger that an earlier test left without propagation
    assert set(caplog.messages) == {"plugins.disable names Reward_Humann, and no such plugin is installed"}


def test_order_is_builtins_first_then_sorted(install: Install, load: Load) -> None:
    install("b-dist", "1.0", b_two=advantage("b2"), b_one=advantage("b1"))
    install("a-dist", "1.0", a_one=advantage("a1"))
    manager = load()
    order = [(p.distribution, p.name) for p in manager.plugins]
    strangers = [("a-dist", "a_one"), ("b-dist", "b_one"), ("b-dist", "b_two")]
    assert [pair for pair in order if pair[0] != "alignkit"][:3] == strangers
    own = [name for dist, name in order if dist == "alignkit"]
    assert own == sorted(own)
    assert order[: len(own)] == [("alignkit", name) for name in own]
    assert order == [(p.distribution, p.name) for p in load().plugins]


def test_what_an_interrupted_pip_leaves_behind_is_passed_over(install: Install, load: Load) -> None:
    info = install("half-dist", "1.0", half_mod=advantage("half"))
    (info / "METADATA").unlink()
    install("whole-dist", "1.0", whole_mod=advantage("whole"))
    manager = load()
    assert "whole" in manager.names("advantage")
    assert "half" not in manager.names("advantage")


def test_damaged_entry_points_file_breaks_nothing(install: Install, load: Load) -> None:
    info = install("odd-dist", "1.0", odd_mod=advantage("odd"))
    (info / "entry_points.txt").write_text("[alignkit]\nthis line is no entry point\n")
    manager = load()
    assert len(builtins(manager)) == BUILTIN_PLUGINS
    assert "its entry points cannot be read" in str(status(manager, "entry_points.txt").problem)
    assert status(manager, "entry_points.txt").distribution == "odd-dist"


@pytest.mark.parametrize("file", ["entry_points.txt", "METADATA"])
def test_files_that_are_no_text_break_nothing(
    file: str, install: Install, load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("alignkit"), "propagate", True)
    info = install("odd-dist", "1.0", odd_mod=advantage("odd"))
    (info / file).write_bytes(b"[alignkit]\nName: \xff\xfe\n")
    install("whole-dist", "1.0", whole_mod=advantage("whole"))
    manager = load()
    assert "whole" in manager.names("advantage")
    assert "odd" not in manager.names("advantage")
    if file == "entry_points.txt":
        assert "odd-dist 1.0: its entry points cannot be read" in caplog.text


def test_plugin_as_an_object_of_a_class() -> None:
    class Plugin:
        @hookimpl
        def alignkit_steps(self) -> list[Component]:
            return [Component("of_class", print)]

    manager = PluginManager()
    manager.register(Plugin(), PluginStatus("p", "d", "1"))
    assert manager.names("step") == ["of_class"]


def test_versions_names_usable_plugins_only(install: Install, load: Load) -> None:
    install("ok-dist", "1.2", ok_mod=advantage("ok"))
    install("bad-dist", "3.4", bad_mod="1/0\n")
    versions: dict[str, Any] = load().versions()
    assert versions["ok-dist"] == "1.2"
    assert "bad-dist" not in versions


def test_one_object_under_two_names_is_refused_in_a_few_words() -> None:
    class Plugin:
        @hookimpl
        def alignkit_steps(self) -> list[Component]:
            return [Component("of_class", print)]

    manager, plugin, twin = PluginManager(), Plugin(), PluginStatus("twin", "d", "1")
    manager.register(plugin, PluginStatus("p", "d", "1"))
    manager.register(plugin, twin)
    assert twin.problem == "it is the same module or object as the plugin d:p"
    assert manager.names("step") == ["of_class"]


@pytest.mark.parametrize(
    ("hook", "component", "problem"),
    [
        ("alignkit_trackers", Component("t", print, tags=None), "tags is no set"),  # type: ignore[arg-type]
        ("alignkit_trackers", Component("t", print, tags="default"), "tags is no set"),  # type: ignore[arg-type]
        ("alignkit_kernels", Component("auto", print), "meaning of its own in recipes"),
        ("alignkit_kernels", Component("eager", print), "meaning of its own in recipes"),
    ],
)
def test_a_component_that_would_harm_other_recipes_or_never_be_reached(
    hook: str, component: Component, problem: str
) -> None:
    status = PluginStatus("p", "d", "1")
    plugin = type("Plugin", (), {hook: staticmethod(hookimpl(lambda: [component]))})
    PluginManager().register(plugin, status)
    assert problem in str(status.problem)


def editable(info: Path) -> None:
    """What `pip install -e` notes down (PEP 610)."""
    (info / "direct_url.json").write_text('{"url": "file:///somewhere", "dir_info": {"editable": true}}')


def test_an_editable_plugin_is_another_version_after_each_edit(install: Install, load: Load) -> None:
    info = install("edited-dist", "1.0", edited_mod=advantage("edited"))
    install("fixed-dist", "1.0", fixed_mod=advantage("fixed"))
    editable(info)
    first = load().get("advantage", "edited").version
    assert re.fullmatch(r"1\.0\+sha256\.[0-9a-f]{12}", first)
    assert load().get("advantage", "edited").version == first
    module = info.parent / "edited_mod.py"
    module.write_text(module.read_text() + "# another line\n")
    assert load().get("advantage", "edited").version != first
    assert load().get("advantage", "fixed").version == "1.0"


@pytest.mark.parametrize("content", ["no json", "[]", '{"dir_info": {}}', '{"dir_info": 1}'])
def test_an_odd_note_of_the_installer_breaks_nothing(content: str, install: Install, load: Load) -> None:
    info = install("odd-note", "1.0", odd_note=advantage("odd"))
    (info / "direct_url.json").write_text(content)
    assert load().get("advantage", "odd").version == "1.0"


@pytest.mark.parametrize(
    ("value", "strict"), [("1", True), ("true", True), ("", False), ("0", False), ("False", False)]
)
def test_strict_by_environment(value: str, strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNKIT_STRICT_PLUGINS", value)
    assert PluginManager.strict_by_environment() is strict
