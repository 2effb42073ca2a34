"""A run's record has its plugins, what was left out, and the version of every component it used."""

from types import SimpleNamespace
from typing import Any

import pytest

from alignkit import Component, UserError, hookimpl


def test_the_record_names_what_was_used_and_what_was_not(bench: Any) -> None:
    inner = Component("inner", print)
    bench.extra["extra"] = SimpleNamespace(alignkit_advantages=hookimpl(lambda: [inner, Component("idle", print)]))
    bench.recipe("id: a, step: write, inner: inner", top="trackers: [jsonl]")
    bench.run()
    record = bench.json("plugins.json")
    assert record["components"] == {
        "advantage:extra-dist:inner": "1.0",
        "policy:test-dist:stub": "1.0",
        "step:test-dist:write": "1.0",
        "tracker:alignkit:jsonl": record["environment"]["packages"]["alignkit"],
    }
    assert record["left_out"] == {}
    row = next(p for p in record["plugins"] if p["distribution"] == "extra-dist")
    assert row == {
        "name": "extra",
        "distribution": "extra-dist",
        "version": "1.0",
        "status": "ok",
        "problem": None,
        "source": {"kind": "object", "value": ""},
    }
    gae = next(p for p in record["plugins"] if p["name"] == "advantage_gae")
    assert gae["source"] == {"kind": "entry_point", "value": "alignkit_plugins.advantage_gae.plugin"}


def test_a_named_kernel_is_among_the_components(bench: Any) -> None:
    bench.recipe("id: a, step: write", top="kernels: chunked")
    bench.run()
    assert "kernel:alignkit:chunked" in bench.json("plugins.json")["components"]


def test_a_transform_counts_for_steps_with_a_reward_source_alone(bench: Any) -> None:
    from alignkit.engine.identity import step_identity
    from alignkit.recipe import load_recipe

    shaping = SimpleNamespace(alignkit_shape_scores=hookimpl(lambda scores_B: scores_B))
    bench.extra["shaping"] = shaping
    bench.recipe(
        "id: a, step: write",
        "id: b, step: align, prompts: '@a', iterations: 1, reward_source: film_taste",
        top="kernels: chunked",
    )
    loaded = load_recipe(str(bench.folder / "small.yaml"), (), bench.manager())
    first, second = (step_identity(loaded.recipe, s, 1, loaded.manager, {})["components"] for s in loaded.recipe.steps)
    assert "transform:shaping-dist:shaping" not in first
    assert second["transform:shaping-dist:shaping"] == "1.0"
    assert "kernel:alignkit:chunked" in first
    bench.extra.clear()
    loaded = load_recipe(str(bench.folder / "small.yaml"), (), bench.manager())
    without = step_identity(loaded.recipe, loaded.recipe.steps[1], 1, loaded.manager, {})["components"]
    assert set(second) - set(without) == {"transform:shaping-dist:shaping"}


def test_plugins_that_were_left_out_are_in_the_record(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = bench.manager()
    manager.left_out["some_plugin"] = "plugins.disable"
    monkeypatch.setattr(bench, "manager", lambda: manager)
    bench.recipe("id: a, step: write")
    bench.run()
    assert bench.json("plugins.json")["left_out"] == {"some_plugin": "plugins.disable"}
    assert "some_plugin" in (bench.run_folder / "report.html").read_text()


def test_ranks_are_compared_before_anything_is_written(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(manager: Any) -> None:
        raise UserError("the processes of this run have different plugins")

    monkeypatch.setattr("alignkit.engine.run.require_same_plugins", differ)
    bench.recipe("id: a, step: write")
    with pytest.raises(UserError, match="different plugins"):
        bench.run()
    assert not bench.run_folder.exists()
