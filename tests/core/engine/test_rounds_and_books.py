"""Rounds, --reuse, and the files at the top of a run."""

import json
from typing import Any

import pytest

from alignkit import Component, UserError, hookimpl
from alignkit.components import NoConfig
from alignkit.engine.identity import first_difference
from alignkit.engine.ledger import Ledger
from alignkit.errors import Fault
from alignkit.ops import OPS

BASE = "id: base, step: write, rows: 2"
LOOP = 'id: loop, step: write, source: "@base", each_round: true, rows: 3'
END = 'id: end, step: write, source: "@loop", each_round: true'


def test_a_reference_means_this_rounds_result_or_the_last_one(bench: Any) -> None:
    bench.recipe(BASE, LOOP, END, top="rounds: 2")
    bench.run()
    assert bench.runs() == ["base/1", "loop/1", "end/1", "loop/2", "end/2"]
    assert bench.text("r1/03-end") == "hello1>hello1>hello1"
    assert bench.text("r2/03-end") == "hello1>hello2>hello2"
    assert not (bench.run_folder / "r2/01-base").exists()


def test_latest_is_the_newest_policy(bench: Any) -> None:
    first = "id: base, step: write, makes_policy: true"
    grow = 'id: grow, step: write, source: "@latest", makes_policy: true, each_round: true'
    plain = "id: plain, step: write, each_round: true"
    bench.recipe(first, grow, plain, top="rounds: 3")
    bench.run()
    assert bench.text("r1/02-grow") == "hello1>hello1"
    assert bench.text("r3/02-grow") == "hello1>hello1>hello2>hello3"


def test_rounds_raised_go_on_and_lowered_are_refused(bench: Any) -> None:
    bench.recipe(BASE, LOOP)
    bench.run()
    bench.runs()
    bench.run("rounds=2")
    assert bench.runs() == ["loop/2"]
    before = bench.files()
    with pytest.raises(UserError, match="step 'loop' as step 2 of round 2"):
        bench.run("rounds=1")
    assert bench.files() == before


def test_a_step_appended_to_a_run_of_two_rounds_sees_its_own_round(bench: Any) -> None:
    bench.recipe(BASE, LOOP, top="rounds: 2")
    bench.run()
    bench.recipe(BASE, LOOP, END, top="rounds: 2")
    bench.run()
    assert bench.text("r1/03-end") == "hello1>hello1>hello1"
    assert bench.text("r2/03-end") == "hello1>hello2>hello2"


def test_an_appended_policy_that_changes_what_latest_meant_is_noticed(bench: Any) -> None:
    first = "id: base, step: write, makes_policy: true"
    grow = 'id: grow, step: write, source: "@latest", each_round: true'
    bench.recipe(first, grow, top="rounds: 2")
    bench.run()
    bench.recipe(first, grow, "id: more, step: write, makes_policy: true", top="rounds: 2")
    with pytest.raises(UserError, match="the result of @latest, which step 'grow' reads, changed"):
        bench.run()


def test_the_policys_own_reference_is_an_input(bench: Any) -> None:
    bench.recipe(BASE, LOOP, top="rounds: 1")
    path = bench.folder / "small.yaml"
    path.write_text(path.read_text().replace("policy: stub", 'policy: {name: stub, corpus: "@base"}'))
    bench.run()
    assert list(bench.json("r1/01-base/manifest.json")["identity"]["inputs"]) == []
    assert list(bench.json("r1/02-loop/manifest.json")["identity"]["inputs"]) == ["@base"]
    bench.runs()
    bench.run("rounds=2")
    assert bench.runs() == ["loop/2"]


def test_reuse_takes_over_identical_steps_and_only_those(bench: Any) -> None:
    bench.recipe(BASE, LOOP, END)
    bench.run()
    bench.runs()
    bench.run("name=second", "loop.text=other", reuse=[bench.run_folder])
    assert bench.runs() == ["loop/1", "end/1"]  # end's own options are the same, its input is not
    second = bench.folder / "runs/second"
    manifests = [json.loads((f / "r1/01-base/manifest.json").read_text()) for f in (bench.run_folder, second)]
    assert manifests[0] == manifests[1]
    assert (second / "r1/03-end/text.txt").read_text() == "hello1>other1>hello1"
    metrics = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert [(m["step"], m["index"]) for m in metrics] == [
        ("base", 1),
        ("base", 2),
        ("loop", 1),
        ("loop", 2),
        ("loop", 3),
    ]
    bench.run("name=third", "seed=1", reuse=[bench.run_folder, second])
    assert bench.runs() == ["base/1", "loop/1", "end/1"]


def test_from_wins_over_reuse(bench: Any) -> None:
    bench.recipe(BASE, LOOP, END)
    bench.run()
    bench.runs()
    bench.run("name=second", start_from="loop", reuse=[bench.run_folder])
    assert bench.runs() == ["loop/1", "end/1"]


def test_reuse_says_what_differs(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench.recipe(BASE, LOOP, END)
    bench.run()
    with caplog.at_level("INFO", logger="alignkit"):
        bench.run("name=second", "loop.text=other", reuse=[bench.run_folder])
    assert [m for m in caplog.messages if "loop differs" in m and m.endswith(" in options.text")]


def test_reuse_takes_finished_steps_of_an_unfinished_run(bench: Any) -> None:
    bench.recipe(BASE, LOOP + ", fail: bug")
    with pytest.raises(Fault, match="ZeroDivisionError"):
        bench.run()
    bench.runs()
    bench.plugin.failing = False
    bench.run("name=second", reuse=[bench.run_folder])
    assert bench.runs() == ["loop/1"]
    assert (bench.folder / "runs/second/r1/01-base/text.txt").read_text() == "hello1"


def test_reused_folders_are_copies(bench: Any) -> None:
    bench.recipe(BASE)
    bench.run()
    weights = bench.run_folder / "r1/01-base/model.safetensors"
    weights.write_bytes(b"weights")
    bench.run("name=second", reuse=[bench.run_folder])
    copy = bench.folder / "runs/second/r1/01-base"
    assert (copy / "model.safetensors").stat().st_ino == weights.stat().st_ino  # never written in place
    (copy / "metrics.jsonl").write_text("changed")
    assert "changed" not in (weights.parent / "metrics.jsonl").read_text()


def test_reuse_of_what_is_no_run(bench: Any) -> None:
    bench.recipe(BASE)
    with pytest.raises(UserError, match="holds no run"):
        bench.run(reuse=[bench.folder / "nowhere"])
    damaged = bench.folder / "damaged/r1/01-base"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="the manifest is damaged"):
        bench.run(reuse=[bench.folder / "damaged"])
    assert not bench.run_folder.exists()


def test_summary_has_the_last_round_on_top_and_all_in_rounds(bench: Any) -> None:
    bench.recipe(BASE, LOOP, top="rounds: 2\nseed: 7")
    summary = bench.run()
    base, loop = {"round": 1, "text": "hello"}, {"round": 2, "text": "hello"}
    assert summary["name"] == "small"
    assert summary["seed"] == 7
    assert summary["steps"] == {"base": base, "loop": loop}
    assert summary["rounds"] == [
        {"last": "loop", "steps": {"base": base, "loop": {**loop, "round": 1}}},
        {"last": "loop", "steps": {"loop": loop}},
    ]
    assert [(s["round"], s["id"]) for s in summary["by_step"]] == [(1, "base"), (1, "loop"), (2, "loop")]
    assert summary == bench.json("summary.json")


def test_timing_adds_up(bench: Any) -> None:
    bench.recipe(BASE, LOOP, top="rounds: 2")
    bench.run()
    timing = bench.json("timing.json")
    assert [(s["round"], s["id"]) for s in timing["steps"]] == [(1, "base"), (1, "loop"), (2, "loop")]
    assert timing["seconds"] == pytest.approx(sum(s["seconds"] for s in timing["steps"]), abs=1e-6)
    assert timing["seconds"] > 0


def rows(bench: Any) -> list[tuple[int, str, int]]:
    """(round, step, index) of the run's metrics."""
    lines = (bench.run_folder / "metrics.jsonl").read_text().splitlines()
    return [(r["round"], r["step"], r["index"]) for r in map(json.loads, lines)]


WANTED = [(1, "base", 1), (1, "base", 2), *((1, "loop", i) for i in (1, 2, 3)), *((2, "loop", i) for i in (1, 2, 3))]


def test_metrics_are_in_order_and_not_doubled_after_restarts(bench: Any) -> None:
    bench.recipe(BASE, LOOP + ", fail_at_row: 2", top="rounds: 2")
    for _ in range(2):
        with pytest.raises(Fault, match="ZeroDivisionError"):
            bench.run()
    assert rows(bench) == WANTED[:2]
    bench.plugin.failing = False
    for _ in range(2):
        bench.run()
        assert rows(bench) == WANTED


def test_metrics_of_a_step_that_keeps_its_folder_are_not_doubled(bench: Any) -> None:
    bench.recipe(BASE, LOOP.replace("write", "keeping") + ", fail_at_row: 2", top="rounds: 2")
    with pytest.raises(Fault, match="ZeroDivisionError"):
        bench.run()
    bench.plugin.failing = False
    bench.run()
    assert rows(bench) == WANTED


def test_a_default_tracker_that_is_not_installed_is_done_without(bench: Any) -> None:
    bench.recipe(BASE, top="plugins: {disable: [tracker_jsonl, tracker_progress]}")
    from alignkit.engine import run_recipe
    from alignkit.manager import PluginManager, PluginStatus
    from alignkit.recipe import load_recipe

    manager = PluginManager()
    manager.register(bench.plugin, PluginStatus("steps", "test-dist", "1.0"))
    run_recipe(load_recipe(str(bench.folder / "small.yaml"), (), manager))
    assert (bench.run_folder / "metrics.jsonl").read_text() == ""


def test_lifecycle_events_come_in_order_and_a_broken_listener_is_named(
    bench: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("alignkit"), "propagate", True)
    events: list[str] = []

    class Listener:
        @hookimpl
        def alignkit_run_start(self, run: Any) -> None:
            events.append(f"run {run.name} {run.plugins['steps-dist' if 0 else 'test-dist']}")

        @hookimpl
        def alignkit_round_start(self, round: int) -> None:
            events.append(f"round {round}")

        @hookimpl
        def alignkit_step_start(self, step_id: str, folder: Any) -> None:
            assert folder.is_dir()
            events.append(f"start {step_id}")

        @hookimpl
        def alignkit_step_end(self, step_id: str, folder: Any) -> None:
            assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
            events.append(f"end {step_id}")

        @hookimpl
        def alignkit_round_end(self, round: int) -> None:
            events.append(f"round {round} over")

        @hookimpl
        def alignkit_run_end(self, summary: Any) -> None:
            events.append(f"run over {summary['last']}")

    class Broken:
        @hookimpl
        def alignkit_step_start(self, step_id: str) -> None:
            raise RuntimeError(f"cannot listen to {step_id}")

    bench.extra = {"broken": Broken(), "listener": Listener()}
    bench.recipe(BASE, LOOP, top="rounds: 2")
    bench.run()
    assert events == [
        "run small 1.0", "round 1", "start base", "end base", "start loop", "end loop", "round 1 over",
        "round 2", "start loop", "end loop", "round 2 over", "run over loop",
    ]  # fmt: skip
    assert "plugin broken-dist:broken failed in alignkit_step_start" in caplog.text
    assert "cannot listen to base" in caplog.text


def test_a_reference_inside_the_ledger_names_its_parts(bench: Any) -> None:
    bench.recipe(BASE)
    bench.run()
    ledger = Ledger.of_existing_run(bench.run_folder)
    assert ledger.resolve("@base") == bench.run_folder / "r1/01-base"
    assert ledger.resolve("@base.text").name == "text.txt"
    with pytest.raises(UserError, match=r"no part 'x'") as caught:
        ledger.resolve("@base.x")
    assert caught.value.hint == "its parts: text"


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"a": 2}, ("a", 1, 2)),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ("a.b.1", 2, 3)),
        ({"a": [1]}, {"a": [1, 2]}, ("a", [1], [1, 2])),
        ({}, {"k": None}, None),
        ({"z": 1, "b": 1}, {"z": 2, "b": 2}, ("b", 1, 2)),
        ({"a": 1}, {}, ("a", 1, None)),
    ],
)
def test_first_difference(old: Any, new: Any, difference: Any) -> None:
    assert first_difference(old, new) == difference


def test_a_summary_with_numbers_of_other_libraries_is_written(bench: Any) -> None:
    import numpy as np

    from alignkit.protocols import StepOutput

    class Odd:
        def run(self, context: Any) -> StepOutput:
            figures = {"a": np.float32(0.5), "b": np.int64(3), "c": float("nan"), "d": np.float32("inf"), "e": True}
            return StepOutput({"": "."}, figures)

    class Plugin:
        @hookimpl
        def alignkit_steps(self) -> list[Component]:
            return [Component("odd", lambda config, context: Odd(), NoConfig)]

    bench.extra = {"odd": Plugin()}
    bench.recipe("id: a, step: odd")
    bench.run()
    written = bench.json("summary.json")
    assert {k: written[k] for k in "abcde"} == {"a": 0.5, "b": 3, "c": None, "d": None, "e": True}


def test_the_kernel_of_each_op_is_recorded_and_said(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench.recipe(BASE)
    with caplog.at_level("INFO", logger="alignkit"):
        bench.run("kernels=chunked")
    record = bench.json("plugins.json")
    assert record["kernels"]["asked"] == "chunked"
    vocabulary = ("linear_logprob", "linear_kl", "fused_linear_policy_loss")
    assert record["kernels"]["choice"] == {**dict.fromkeys(OPS, "eager"), **dict.fromkeys(vocabulary, "chunked")}
    assert record["kernels"]["reason"] == "asked for"
    assert "linear_logprob: chunked" in caplog.text
