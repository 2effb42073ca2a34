"""Steps that draw through a server: what collect records, what evaluate compares, and what align says."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignkit import Fault, UserError
from alignkit.data.store import RecordFile, write_records
from alignkit.engine import run_recipe
from alignkit.manager import PluginManager
from alignkit.preflight import before_run
from alignkit.recipe import load_recipe
from alignkit.records import Prompt, Task
from alignkit_plugins.step_collect.candidates import CHUNK
from helpers.completing import CompletionServer, asked, echo
from helpers.models import make_policy, make_scorer, make_tokenizer

pytestmark = pytest.mark.concurrent

COLLECT = """
  - id: step
    step: collect
    prompts: {folder}/prompts.jsonl
    samples_per_prompt: 2
    sampling: {{max_length: 8}}
    reward_source: {{name: simulated, utility: {{name: reward_model, model: {folder}/reward}}}}
    sampler: {{name: openai, base_url: {url}, retries: 0, concurrency: 4}}
"""
EVALUATE = """
  - id: step
    step: evaluate
    prompts: {folder}/prompts.jsonl
    sampling: {{max_length: 8}}
    judge: {{name: reward_model, model: {folder}/reward}}
    sampler: {{name: openai, base_url: {url}}}
    against: {folder}/policy
    against_sampler: hf
"""
ALIGN = """
  - id: step
    step: align
    prompts: {folder}/prompts.jsonl
    iterations: 1
    reward_source: {{name: reward_model, model: {folder}/reward}}
    sampler: {{name: openai, base_url: {url}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a reward model with the same tokenizer, and prompts."""
    folder = tmp_path_factory.mktemp("parts")
    make_policy("llama", make_tokenizer()).save(folder / "policy")
    make_scorer(folder / "start").save(folder / "reward")
    write_records(folder / "prompts.jsonl", [Prompt(prompt=f"the film {n}") for n in range(4)])
    return folder


def recipe(step: str, folder: Path, url: str, runs: Path, *overrides: str) -> Any:
    """A recipe of one step, loaded."""
    head = f"name: served\noutput: {runs}\ntrackers: []\npolicy: {{name: causal_lm, path: {folder}/policy}}\nsteps:"
    (runs / "recipe.yaml").write_text(head + step.format(folder=folder, url=url))
    manager = PluginManager()
    manager.load()
    return load_recipe(str(runs / "recipe.yaml"), overrides, manager)


def test_collect_records_texts_of_the_model_that_the_server_names(folder: Path, tmp_path: Path) -> None:
    with CompletionServer(echo, models=[{"id": "m", "root": "weights/7"}]) as server:
        run_recipe(recipe(COLLECT, folder, server.url, tmp_path))
    (served,) = (tmp_path / "served/r1").iterdir()
    tasks = list(RecordFile(served / "tasks.jsonl", Task))
    candidates = [candidate for task in tasks for candidate in task.candidates]
    assert len(candidates) == len({candidate.id for candidate in candidates}) == 8
    assert {c.policy_revision for c in candidates} == {f"m (weights/7) at {server.url}"}
    assert {(c.prompt_ids, c.completion_ids, c.finish_reason) for c in candidates} == {((), (), "stop")}
    assert [task.candidates[1].completion[:10] for task in tasks] == [f"the film {n}" for n in range(4)]
    figures = json.loads((tmp_path / "served/summary.json").read_text())["feedback"]["step"]
    assert figures["policies"] == [f"m (weights/7) at {server.url}"]
    assert figures["judgements"] == 4


def test_a_run_goes_on_with_the_prompts_that_are_missing(folder: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "prompts.jsonl", [Prompt(prompt=f"film {n}.") for n in range(CHUNK + 5)])
    prompts = f"step.prompts={tmp_path / 'prompts.jsonl'}"
    broken = f"film {CHUNK + 2}."
    with CompletionServer(lambda body, number: (500, {}) if asked(body) == broken else echo(body, number)) as server:
        with pytest.raises(Fault, match=f"requests failed.*prompt '{broken}'"):
            run_recipe(recipe(COLLECT, folder, server.url, tmp_path, prompts))
        first = {asked(body) for body in server.bodies}
        server.reply = echo
        server.bodies.clear()
        run_recipe(recipe(COLLECT, folder, server.url, tmp_path, prompts))
    assert {f"film {n}." for n in range(CHUNK)} < first
    assert {asked(body) for body in server.bodies} == {f"film {n}." for n in range(CHUNK, CHUNK + 5)}


@pytest.mark.parametrize("option", ["policy={folder}/policy", "max_prompt_length=9"])
def test_options_of_a_policy_are_refused(option: str, folder: Path, tmp_path: Path) -> None:
    loaded = recipe(COLLECT, folder, "http://localhost:9/v1", tmp_path, "step." + option.format(folder=folder))
    (found,) = [finding for finding in before_run(loaded) if finding.severity == "error"]
    name = option.partition("=")[0]
    assert f"step.{name}" in found.where
    assert f"draws from a model of its own, which {name} cannot change" in found.what
    with pytest.raises(UserError, match="draws from a model of its own"):
        run_recipe(loaded)


def test_evaluate_compares_a_server_with_a_policy(folder: Path, tmp_path: Path) -> None:
    with CompletionServer(lambda body, number: echo(body, number)) as server:
        run_recipe(recipe(EVALUATE, folder, server.url, tmp_path))
    summary = json.loads((tmp_path / "served/summary.json").read_text())["policy"]
    assert summary["win_rate"]["n"] == 4
    assert summary["kl"] is None
    assert summary["figures_left_out"] == ["kl", "length"]
    assert summary["drawn_from"]["after"] == f"m at {server.url}"
    assert "http" not in summary["drawn_from"]["before"]
    for side in ("before", "after"):
        assert {"words", "judge", "distinct_2", "missing_stop"} == set(summary[side])
    assert summary["after"]["words"] == 7.0  # the film N / SEED / 0
    (served,) = (tmp_path / "served/r1").iterdir()
    rows = [json.loads(line) for line in (served / "samples.jsonl").read_text().splitlines()]
    assert all(row["after"].startswith(row["prompt"]) for row in rows)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["step.against_sampler=null"], "which against cannot change"),
        (["step.against_sampler=null", "step.against=null"], "both sides would be answered by the same model"),
        (["step.against=null"], "against is missing"),
        (["step.policy=x"], "which policy cannot change"),
    ],
)
def test_sides_that_do_not_go_together(overrides: list[str], said: str, folder: Path, tmp_path: Path) -> None:
    found = before_run(recipe(EVALUATE, folder, "http://localhost:9/v1", tmp_path, *overrides))
    assert said in "".join(finding.what for finding in found if finding.severity == "error")


def test_align_needs_ids_and_says_so_before_the_run(folder: Path, tmp_path: Path) -> None:
    loaded = recipe(ALIGN, folder, "http://localhost:9/v1", tmp_path)
    found = [finding for finding in before_run(loaded) if finding.severity == "error"]
    assert [finding.code for finding in found] == ["R001"]
    assert "gives texts without token ids" in found[0].what
    assert "step.sampler" in found[0].where
    with pytest.raises(UserError, match="gives texts without token ids"):
        run_recipe(loaded)
    assert not (tmp_path / "served/r1").exists()
