"""A user's function runs only when allowed, and what it does wrong has its name on it."""

import sys
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import Fault, Terminated, UserError
from alignkit.loop.scores import checked_scores
from alignkit_plugins.reward_function.source import FunctionSource, load_function
from helpers.context import make_rollout

CODE = """
def lengths(prompts, completions, scale=1.0):
    return [scale * len(c) for c in completions]

constant = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "rewards_of_a_user"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


@pytest.fixture
def rollout(llama: Any) -> Any:
    return make_rollout(llama, ["a", "b"], [llama.encoder.text("one"), llama.encoder.text("three")])


def test_without_permission_nothing_is_imported(module: str) -> None:
    with pytest.raises(UserError, match="was not allowed") as caught:
        load_function(f"{module}:lengths", {}, frozenset({"other"}))
    assert caught.value.exit_status == 2
    assert f"--allow-code {module}:lengths" in str(caught.value)
    assert module not in sys.modules


@pytest.mark.parametrize("what", ["{}:lengths", "{}"])
def test_an_allowed_function_scores(module: str, rollout: Any, what: str) -> None:
    source = load_function(f"{module}:lengths", {"scale": 2.0}, frozenset({what.format(module)}))
    assert source.score(rollout).tolist() == [6.0, 10.0]
    assert str(Path.cwd()) not in sys.path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{}:missing", "cannot import it: AttributeError"),
        ("{}:constant", "not a function"),
        ("nowhere_x:f", "No module"),
    ],
)
def test_what_cannot_be_imported_is_the_users_mistake(module: str, path: str, message: str) -> None:
    path = path.format(module)
    with pytest.raises(UserError, match=message):
        load_function(path, {}, frozenset({path}))


@pytest.mark.parametrize("code", ["1 / 0", "def f(:", "raise SystemError('x')"])
def test_a_module_that_raises_when_it_is_imported_too(module: str, code: str) -> None:
    Path("broken_rewards.py").write_text(code)
    sys.modules.pop("broken_rewards", None)
    with pytest.raises(UserError, match="cannot import it"):
        load_function("broken_rewards:f", {}, frozenset({"broken_rewards"}))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, c: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda p, c: [1.0], "returned 1 scores for 2 completions"),
        (lambda p, c: 5, "TypeError"),
        (lambda p, c: ["good", "bad"], "could not convert string to float"),
        (lambda p, c: [1.0, float("nan")], "returned nan for 'three'"),
        (lambda p, c: [float("inf"), 1.0], "returned inf for 'one'"),
    ],
)
def test_a_function_that_fails_is_a_fault_with_its_name(rollout: Any, function: Any, message: str) -> None:
    with pytest.raises(Fault, match=message) as caught:
        checked_scores(FunctionSource(function, "mine:f", {}), rollout)
    assert caught.value.exit_status == 4
    assert "mine:f" in str(caught.value)


def test_a_function_that_leaves_is_a_fault_at_its_own_line(rollout: Any) -> None:
    def leaves(prompts: list[str], completions: list[str]) -> list[float]:
        raise SystemExit("done")

    with pytest.raises(Fault, match="SystemExit: done") as caught:
        FunctionSource(leaves, "mine:f", {}).score(rollout)
    assert f"{Path(__file__).name}:{leaves.__code__.co_firstlineno + 1}" in str(caught.value.where)
    with pytest.raises(Terminated):
        FunctionSource(lambda p, c: _raise(Terminated()), "mine:f", {}).score(rollout)


def test_what_a_function_fails_with_is_shortened(rollout: Any) -> None:
    function = lambda p, c: _raise(ValueError("begin" + "x" * 100_000 + "end"))  # noqa: E731
    with pytest.raises(Fault, match=r"ValueError: begin(?s:.)*xend") as caught:
        FunctionSource(function, "mine:f", {}).score(rollout)
    assert len(str(caught.value)) < 3000


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device", "cache")])
def test_memory_and_disk_are_not_the_functions_fault(rollout: Any, error: BaseException) -> None:
    def function(prompts: list[str], completions: list[str]) -> list[float]:
        raise error

    with pytest.raises(type(error)):
        FunctionSource(function, "mine:f", {}).score(rollout)
