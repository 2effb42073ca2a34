"""Lifecycle listeners cannot stop a run by accident; transforms are chained and cannot be skipped by accident."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignkit import Fault, UserError, hookimpl
from alignkit.components import KINDS
from alignkit.errors import Terminated
from alignkit.hooks import notify, shape_scores
from alignkit.hookspecs import HOOKSPEC_CLASSES, REGISTRATION_HOOKS
from alignkit.manager import PluginManager, PluginStatus


def manager_with(**plugins: Any) -> PluginManager:
    """A manager with these objects, registered in order; the distribution is called `dist`."""
    manager = PluginManager()
    for name, plugin in plugins.items():
        manager.register(plugin, PluginStatus(name, "dist", "1"))
    assert [p.problem for p in manager.plugins] == [None] * len(plugins)
    return manager


def scores_plugin(function: Any, **marks: Any) -> Any:
    """A plugin that changes scores by `function`."""

    def alignkit_shape_scores(scores_B: torch.Tensor) -> Any:
        return function(scores_B)

    return SimpleNamespace(alignkit_shape_scores=hookimpl(**marks)(alignkit_shape_scores))


def shaped(manager: PluginManager, *scores: float) -> list[float]:
    """Scores after all transforms."""
    run: Any = None
    return shape_scores(manager, run, run, torch.tensor(scores)).tolist()


def test_a_raising_listener_is_named_and_the_others_still_hear(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("alignkit"), "propagate", True)
    heard: list[str] = []

    def bad() -> None:
        raise ValueError("listener is broken")

    def good(round: int) -> None:
        heard.append(f"round {round}")

    manager = manager_with(
        bad=SimpleNamespace(alignkit_round_start=hookimpl(bad)),
        good=SimpleNamespace(alignkit_round_start=hookimpl(good)),
    )
    notify(manager, "alignkit_round_start", run=None, round=3)
    assert heard == ["round 3"]
    assert "plugin dist:bad failed in alignkit_round_start; the run goes on" in caplog.text
    assert "listener is broken" in caplog.text


def test_an_exit_in_a_hook_does_not_end_the_program() -> None:
    def leave() -> None:
        raise SystemExit(3)

    notify(manager_with(bad=SimpleNamespace(alignkit_run_start=hookimpl(leave))), "alignkit_run_start", run=None)

    def leaving(_: torch.Tensor) -> torch.Tensor:
        raise SystemExit(3)

    with pytest.raises(Fault, match="plugin dist:bad failed"):
        shaped(manager_with(bad=scores_plugin(leaving)), 1.0)


class Skipped(BaseException):
    """As pytest.skip raises it."""


def test_any_exception_of_a_listener_is_kept_but_being_told_to_end() -> None:
    def listener(error: BaseException) -> SimpleNamespace:
        def raises() -> None:
            raise error

        return SimpleNamespace(alignkit_run_start=hookimpl(raises))

    notify(manager_with(odd=listener(Skipped())), "alignkit_run_start", run=None)
    for ending in (KeyboardInterrupt(), Terminated()):
        with pytest.raises(type(ending)):
            notify(manager_with(one=listener(ending)), "alignkit_run_start", run=None)


def test_a_listener_stops_the_run_by_asking_to() -> None:
    def stop() -> None:
        raise Fault("budget is used up")

    manager = manager_with(stop=SimpleNamespace(alignkit_run_start=hookimpl(stop)))
    with pytest.raises(Fault, match="budget is used up"):
        notify(manager, "alignkit_run_start", run=None)


def test_transforms_are_chained_in_registration_order_and_none_means_unchanged() -> None:
    manager = manager_with(
        plus=scores_plugin(lambda s: s + 1), silent=scores_plugin(lambda s: None), times=scores_plugin(lambda s: s * 10)
    )
    assert shaped(manager, 1.0, 2.0) == [20.0, 30.0]


def test_tryfirst_and_trylast_mean_what_they_say() -> None:
    manager = manager_with(
        last=scores_plugin(lambda s: s * 100, trylast=True),
        middle=scores_plugin(lambda s: s + 1),
        first=scores_plugin(lambda s: s * 2, tryfirst=True),
    )
    assert shaped(manager, 0.0, 5.0) == [100.0, 1100.0]


def test_a_failing_transform_stops_the_run_with_the_plugins_name() -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("by zero")

    with pytest.raises(Fault, match=r"plugin dist:bad failed in alignkit_shape_scores: ZeroDivisionError: by zero"):
        shaped(manager_with(bad=scores_plugin(fail)), 1.0)


def test_a_transform_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(Fault, match=r"dist:bad returned scores of shape \(1,\), expected \(2,\)"):
        shaped(manager_with(bad=scores_plugin(lambda s: s[:1])), 1.0, 2.0)


def test_a_transform_that_gives_no_tensor_is_refused() -> None:
    with pytest.raises(Fault, match=r"dist:bad returned a list as scores, expected \(2,\)"):
        shaped(manager_with(bad=scores_plugin(lambda s: s.tolist())), 1.0, 2.0)


def test_a_transform_that_makes_scores_not_finite_is_refused_with_the_completion() -> None:
    run: Any = None
    rollout: Any = SimpleNamespace(texts=["good", "bad" * 1000])
    manager = manager_with(fine=scores_plugin(lambda s: s), bad=scores_plugin(lambda s: 1 / s))
    with pytest.raises(Fault, match=r"dist:bad made 1 of 2 scores not finite, the first inf for '(bad)+") as caught:
        shape_scores(manager, run, rollout, torch.tensor([1.0, 0.0]))
    assert len(str(caught.value)) < 400


def test_every_kind_has_its_hook_and_every_hook_a_docstring() -> None:
    assert set(REGISTRATION_HOOKS) == set(KINDS)
    hooks = [(n, f) for spec in HOOKSPEC_CLASSES for n, f in vars(spec).items() if n.startswith("alignkit_")]
    assert len(hooks) == 24
    assert set(REGISTRATION_HOOKS.values()) <= {n for n, _ in hooks}
    assert [n for n, f in hooks if not (f.__doc__ or "").strip()] == []


def test_did_you_mean_is_empty_for_nothing_close() -> None:
    error = UserError("what", where="file:1", hint="do this")
    assert str(error) == "file:1: what\n  -> do this"
    assert str(UserError("what")) == "what"
