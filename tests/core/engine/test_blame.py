"""Whose fault an error is: a stranger's plugin by its frames, never the project's own code."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.engine.blame import FAILURE, clear_failure, culprit_of, explained, owner_of
from alignkit.errors import Fault, Paused, Terminated, UserError
from alignkit.manager import PluginManager, PluginStatus
from alignkit.masked import whiten

PLUGIN = """
import json, sys
from alignkit import Component, Fault, hookimpl


class Source:
    def score(self, rollout):
        return self.deeper(rollout)

    def deeper(self, rollout):
        return rollout["missing"]

    def parse(self):
        json.loads("{")

    def leave(self):
        sys.exit(3)

    def wrong(self):
        from alignkit.masked import whiten
        whiten(None, None)

    def takes(self, one):
        return one

    def own(self):
        raise Fault("my judge is out of order", where="judge")


@hookimpl
def alignkit_reward_sources():
    return [Component("stranger", lambda config, context: Source())]
"""


@pytest.fixture
def manager(tmp_path: Path) -> PluginManager:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "odd.py").write_text(PLUGIN)
    manager = PluginManager()
    manager.load(folders=[folder])
    assert [p.problem for p in manager.plugins if p.problem] == []
    return manager


@pytest.fixture
def source(manager: PluginManager) -> Any:
    registered = manager.get("reward_source", "stranger")
    return registered.build(registered.component.config(), None)


def raised(call: Callable[[], object]) -> BaseException:
    """What it raises, with its traceback."""
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def line_of(text: str) -> int:
    """Where a text stands in the plugin."""
    return PLUGIN[: PLUGIN.index(text)].count("\n") + 1


@pytest.mark.parametrize(
    ("call", "function", "text", "said"),
    [
        (lambda s: s.score({}), "Source.deeper", 'return rollout["missing"]', "KeyError: 'missing'"),
        (lambda s: s.parse(), "Source.parse", 'json.loads("{")', "JSONDecodeError"),  # the error is in a library
        (lambda s: s.leave(), "Source.leave", "sys.exit(3)", "SystemExit: 3"),
        (lambda s: s.wrong(), "Source.wrong", "whiten(None", "TypeError"),  # our code, called with nonsense
    ],
)
def test_a_strangers_exception_is_a_fault_with_name_version_function_and_line(
    call: Any, function: str, text: str, said: str, manager: PluginManager, source: Any, tmp_path: Path
) -> None:
    error = raised(lambda: call(source))
    found = explained(error, manager, tmp_path)
    assert isinstance(found, Fault)
    assert found.exit_status == 4
    version = manager.get("reward_source", "stranger").version
    assert found.what.startswith(f"local {version} (odd) failed in {function}: {said}")
    assert found.where == f"{tmp_path / 'plugins' / 'odd.py'}:{line_of(text)}"
    saved = tmp_path / FAILURE
    assert f"the whole traceback is in {saved}" in str(found.hint)
    text_saved = saved.read_text()
    assert text_saved.startswith("Traceback (most recent call last)")
    assert function.rpartition(".")[2] in text_saved
    assert type(error).__name__ in text_saved


@pytest.mark.parametrize("call", [lambda s: s.takes(), lambda s: s.takes(1, 2), lambda s: s.takes(two=1)])
def test_a_function_that_does_not_take_what_it_is_called_with_has_no_frame_and_is_found_by_its_name(
    call: Any, manager: PluginManager, source: Any, tmp_path: Path
) -> None:
    found = explained(raised(lambda: call(source)), manager, tmp_path)
    assert isinstance(found, Fault)
    assert "(odd) failed in Source.takes: TypeError: Source.takes()" in found.what
    assert str(found.where).endswith("odd.py")


def test_our_own_bugs_stay_what_they_are(manager: PluginManager, tmp_path: Path) -> None:
    error = raised(lambda: whiten(None, None))  # type: ignore[arg-type]
    assert explained(error, manager, tmp_path) is error
    assert not (tmp_path / FAILURE).exists()


@pytest.mark.parametrize("error", [UserError("x"), Paused("x"), Fault("x"), KeyboardInterrupt(), Terminated()])
def test_what_has_its_message_and_what_ends_the_process_passes(
    error: BaseException, manager: PluginManager, tmp_path: Path
) -> None:
    assert explained(error, manager, tmp_path) is error
    assert not (tmp_path / FAILURE).exists()


def test_a_fault_made_of_another_exception_keeps_its_words_and_gets_the_traceback(
    manager: PluginManager, source: Any, tmp_path: Path
) -> None:
    def made() -> None:
        try:
            source.score({})
        except KeyError as error:
            raise Fault("the judge failed", hint="ask again") from error

    found = explained(raised(made), manager, tmp_path)
    assert isinstance(found, Fault)
    assert found.what == "the judge failed"
    assert found.hint == f"ask again; the whole traceback is in {tmp_path / FAILURE}"
    assert 'rollout["missing"]' in (tmp_path / FAILURE).read_text()
    own = raised(source.own)
    assert explained(own, manager, tmp_path) is own


def test_an_error_raised_from_a_strangers_is_the_strangers(manager: PluginManager, source: Any) -> None:
    def wrapped() -> None:
        try:
            source.score({})
        except KeyError as error:
            raise RuntimeError("our wrapper") from error

    def hidden() -> None:
        try:
            source.score({})
        except KeyError:
            raise RuntimeError("it has nothing to do with it") from None

    found = culprit_of(raised(wrapped), manager)
    assert found is not None
    assert found.function == "Source.deeper"
    assert culprit_of(raised(hidden), manager) is None
    group = ExceptionGroup("both", [ValueError("x"), raised(lambda: source.score({}))])  # type: ignore[list-item]
    assert culprit_of(group, manager) is not None


def test_of_two_plugins_in_one_namespace_the_closer_package_is_named() -> None:
    manager = PluginManager()
    for name in ("one", "two"):
        source = f"company.{name}.plugin:x"
        manager.plugins.append(PluginStatus(name, f"company-{name}", "1", kind="entry_point", source=source))
    manager.plugins.append(PluginStatus("own", "alignkit", "1", kind="entry_point", source="alignkit_plugins.x"))

    def owner(module: str) -> str | None:
        found = owner_of(module, manager)
        return None if found is None else found.name

    assert [owner(m) for m in ("company.one.a.b", "company.two", "company.two.plugin")] == ["one", "two", "two"]
    assert owner("companyx.one") is None
    assert owner("alignkit_plugins.x") is None
    assert owner("json") is None


def test_a_traceback_that_cannot_be_saved_does_not_hide_the_error(
    manager: PluginManager, source: Any, tmp_path: Path
) -> None:
    found = explained(raised(lambda: source.score({})), manager, tmp_path / "nowhere")
    assert isinstance(found, Fault)
    assert "the traceback could not be saved (FileNotFoundError" in str(found.hint)
    assert "KeyError: 'missing'" in found.what


def test_the_traceback_of_an_earlier_try_is_removed(tmp_path: Path) -> None:
    (tmp_path / FAILURE).write_text("old")
    clear_failure(tmp_path)
    clear_failure(tmp_path)
    assert not (tmp_path / FAILURE).exists()


def test_a_stranger_is_never_blamed_for_the_standard_library(manager: PluginManager) -> None:
    assert owner_of("json.decoder", manager) is None
    assert culprit_of(raised(lambda: json.loads("{")), manager) is None
    assert "alignkit" not in {owner.name for m in list(sys.modules) if (owner := owner_of(m, manager)) is not None}
