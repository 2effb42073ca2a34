"""What a stranger's component does wrong has its name on it; the project's own errors pass as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError, field_validator

from alignkit import Component, Fault, Paused, UserError
from alignkit.components import Config, NoConfig
from alignkit.context import BuildContext
from alignkit.errors import Terminated
from alignkit.manager import PluginManager, Registered
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve
from helpers.context import make_context

Load = Callable[..., PluginManager]
Install = Callable[..., Path]

FAILING = """
from alignkit import Component, hookimpl
from alignkit.components import NoConfig

class Half:
    def score(self):
        pass

def wrong_call(config, context):
    return len(3)

def deep(config, context):
    import json
    return json.loads("{")

@hookimpl
def alignkit_reward_sources():
    return [
        Component("wrong_call", wrong_call),
        Component("deep", deep),
        Component("half", lambda config, context: Half()),
        Component("none", lambda config, context: None),
    ]
"""


def registered(build: Any, distribution: str = "some-dist", **more: Any) -> Registered:
    """A reward source of another distribution."""
    return Registered("reward_source", Component("mine", build, **more), "some_plugin", distribution, "1.2")


def raising(error: BaseException) -> Callable[..., Any]:
    """A function that takes anything and raises `error`."""

    def fail(*arguments: Any) -> Any:
        raise error

    return fail


def line_of(text: str) -> int:
    """Where `text` stands in the failing plugin."""
    return 1 + next(i for i, line in enumerate(FAILING.splitlines()) if text in line)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "wrong_call",
            f"could not be built: TypeError: object of type 'int' has no len() (odd_mod.py:{line_of('len(3)')})",
        ),
        # The error is raised inside the standard library; the place is the plugin's own line on the way there.
        ("deep", f"(odd_mod.py:{line_of('json.loads')})"),
        ("half", "does not keep to the Protocol of its kind: score(rollout): it does not take (rollout)"),
        ("none", "of its kind: what it built is None"),
    ],
)
def test_a_strangers_failing_build_is_a_fault_with_its_name(
    name: str, said: str, install: Install, load: Load, tmp_path: Path
) -> None:
    install("odd-dist", "4.5", odd_mod=FAILING)
    context: BuildContext = make_context(tmp_path, manager=load())
    with pytest.raises(Fault) as caught:
        context.build("reward_source", ComponentSpec(name=name))
    assert caught.value.what.startswith(f"odd-dist 4.5: reward source '{name}' ")
    assert said in caught.value.what


@pytest.mark.parametrize(
    "error",
    [
        UserError("no such file"),
        Paused("wait"),
        Fault("stop"),
        OSError(28, "No space left"),
        MemoryError(),
        KeyboardInterrupt(),
        Terminated(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_have_their_own_exit_status_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        registered(raising(error)).build(NoConfig(), None)
    assert caught.value is error


def test_a_missing_file_of_a_stranger_is_his_fault() -> None:
    with pytest.raises(Fault, match="could not be built: FileNotFoundError: "):
        registered(raising(FileNotFoundError(2, "No such file", "lexicon.txt"))).build(NoConfig(), None)


def test_out_of_memory_of_torch_passes() -> None:
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
    with pytest.raises(RuntimeError) as caught:
        registered(raising(error)).build(NoConfig(), None)
    assert caught.value is error


def test_an_exit_in_build_does_not_end_the_program() -> None:
    with pytest.raises(Fault, match="could not be built: SystemExit: no GPU"):
        registered(raising(SystemExit("no GPU"))).build(NoConfig(), None)


def test_the_projects_own_bug_stays_a_bug() -> None:
    with pytest.raises(ZeroDivisionError):
        registered(raising(ZeroDivisionError()), "alignkit").build(NoConfig(), None)


@pytest.mark.parametrize(
    ("part", "said"), [("check", "could not be checked: KeyError"), ("code", "could not say what code it runs")]
)
def test_check_and_code_are_guarded_too(part: str, said: str) -> None:
    component: Any = registered(print, **{part: raising(KeyError("x"))})
    arguments = (NoConfig(), PluginManager()) if part == "check" else (NoConfig(),)
    with pytest.raises(Fault, match=said):
        getattr(component, part)(*arguments)
    refusing: Any = registered(print, **{part: raising(UserError("no such file"))})
    with pytest.raises(UserError, match="no such file"):
        getattr(refusing, part)(*arguments)


class Fragile(Config):
    """A validator that fails in a way that pydantic lets pass."""

    table: str = "a"

    @field_validator("table")
    @classmethod
    def _known(cls, value: str) -> str:
        return {"a": "a"}[value]


def test_a_failing_validator_is_the_plugins_fault_and_a_wrong_value_the_recipes() -> None:
    with pytest.raises(KeyError):
        Fragile(table="b")  # or else this test shows nothing
    with pytest.raises(ValidationError):
        Fragile(table=3)  # type: ignore[arg-type]
    manager = PluginManager()
    manager._components["reward_source", "mine"] = [registered(print, config=Fragile)]
    with pytest.raises(Fault, match=r"some-dist 1.2: reward source 'mine' could not validate its options: KeyError"):
        resolve(manager, "reward_source", ComponentSpec(name="mine", table="b"))
    with pytest.raises(UserError, match="table: Input should be a valid string"):
        resolve(manager, "reward_source", ComponentSpec(name="mine", table=3))
