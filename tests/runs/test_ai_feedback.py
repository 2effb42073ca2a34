"""Whole runs with an AI judge: a budget that stops and goes on, a killed process, direct RLAIF, the key in no file."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import alignkit
from helpers.judging import StubServer, completion
from helpers.models import make_policy, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]

RECIPE = """
name: judged
vars:
  source: human
policy: {{name: causal_lm, path: {policy}}}
steps:
  - id: data
    step: data
    format: prompts
    files: {prompts}
  - id: ask
    step: collect
    prompts: "@data"
    samples_per_prompt: 3
    sampling: {{max_length: 6}}
    reward_source: $source
"""
ALIGN = """
  - id: aligned
    step: align
    prompts: "@data"
    sampling: {{max_length: 6}}
    reward_source: {{name: ai, judge: local, model: {judge}, form: rating, scale: [1, 5]}}
    advantage: rloo
    optimizer_stage: {{name: ppo, lr: 1.0e-3, epochs: 1}}
    samples_per_prompt: 2
    iterations: 2
    batch_size: 8
    kl: {{coef: 0.05}}
"""
KEY = "sk-run-77120"


def prefers_short(prompt: str, number: int) -> dict[str, Any]:
    """A judge that prefers the shorter answer with 90 %."""
    first, _, rest = prompt.partition("Answer A:\n")[2].partition("\n\nAnswer B:\n")
    second = rest.partition("\n\nWhich")[0]
    a = 0.9 if len(first) < len(second) else 0.1 if len(first) > len(second) else 0.5
    return completion(top=[("A", math.log(a)), ("B", math.log(1 - a))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_policy("llama", make_tokenizer()).save(tmp_path / "policy")
    judge = make_policy("llama", make_tokenizer(), seed=8)
    judge.module.config.max_position_embeddings = 2048
    judge.save(tmp_path / "judge")
    rows = [{"prompt": f"the film number {n}"} for n in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(folder: Path, url: str, more: str = "") -> None:
    """Writes recipe.yaml."""
    text = RECIPE.format(policy=folder / "policy", prompts=folder / "prompts.jsonl")
    source = "{name: ai, judge: openai, model: m, " + f"base_url: {url}, api_key_env: JUDGE_KEY, concurrency: 2}}"
    text = text.replace("source: human", f"source: {source}")
    (folder / "recipe.yaml").write_text(text + more.format(judge=folder / "judge"))


def judgements(folder: Path) -> list[dict[str, Any]]:
    """What collect kept."""
    lines = (folder / "runs/judged/r1/02-ask/judgements.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_budget_pauses_the_run_and_a_higher_one_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with StubServer(prefers_short) as server:
        recipe(folder, server.url)
        command = ["run", "recipe.yaml"]
        paused = alignkit(*command, "vars.source.budget.requests=9", cwd=folder, status=3)
        assert "budget.requests of the judge is used up: 9 requests" in paused.stderr
        assert len(server.bodies) == 9
        alignkit(*command, "vars.source.budget.requests=9", cwd=folder, status=3)
        assert len(server.bodies) == 9
        alignkit(*command, "vars.source.budget.requests=99", cwd=folder)
        assert len(server.prompts) == len(set(server.prompts))
        before = len(server.bodies)
        alignkit(*command, "vars.source.concurrency=5", cwd=folder)  # finished, and none of this makes it stale
        assert len(server.bodies) == before
    found = judgements(folder)
    assert len(found) == 12
    assert {j["annotator"]["id"] for j in found} == {"ai-m"}
    summary = json.loads((folder / "runs/judged/summary.json").read_text())
    assert summary["feedback"]["ask"]["about_source"]["judged"] == 12
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in paused.stderr + paused.stdout


def test_a_killed_run_asks_nothing_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with StubServer(prefers_short, delay=0.3) as server:
        recipe(folder, server.url)
        process = subprocess.Popen([sys.executable, "-m", "alignkit.cli", "run", "recipe.yaml"], cwd=folder)
        limit = time.monotonic() + 120
        while len(server.bodies) < 8:
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
        alignkit("run", "recipe.yaml", cwd=folder)
    twice = len(server.prompts) - len(set(server.prompts))
    assert twice <= 2  # what was under way when it was killed: concurrency
    assert len(judgements(folder)) == 12


def test_a_local_judge_scores_completions_in_the_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with StubServer(prefers_short) as server:
        recipe(folder, server.url, ALIGN)
        out = alignkit("run", "recipe.yaml", cwd=folder)
    assert "share a tokenizer" in out.stderr
    rows = (folder / "runs/judged/r1/03-aligned/metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(row) for row in rows]
    assert len(metrics) >= 2
    assert all(-1 <= row["reward"] <= 1 for row in metrics if "reward" in row)
    assert any("reward/label_mass" in row for row in metrics)


def test_people_are_asked_where_the_judge_is_unsure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def unsure_about_two(prompt: str, number: int) -> dict[str, Any]:
        if "number 2" in prompt:
            return completion(top=[("A", math.log(0.5)), ("B", math.log(0.5))])
        return prefers_short(prompt, number)

    with StubServer(unsure_about_two) as server:
        recipe(folder, server.url)
        text = (folder / "recipe.yaml").read_text()
        ai = text.partition("source: ")[2].partition("\n")[0]
        # Answers of one length are ties to this judge: below half of a task's pairs they do not matter.
        mixed = f"{{name: mixed, first: {ai}, then: human, unsure: 0.05}}"
        (folder / "recipe.yaml").write_text(text.replace(f"source: {ai}", f"source: {mixed}"))
        alignkit("run", "recipe.yaml", cwd=folder, status=3)
        asked = len(server.prompts)
        step = folder / "runs/judged/r1/02-ask"
        tasks = [json.loads(line) for line in (step / "tasks.jsonl").read_text().splitlines()]
        answers = folder / "runs/judged/judgements"
        answers.mkdir(exist_ok=True)
        person = {"id": "ann", "kind": "human", "revision": ""}
        (unsure,) = (task for task in tasks if task["prompt"].endswith("number 2"))
        payload = {"type": "ranking", "groups": [[c["id"]] for c in unsure["candidates"]]}
        row = {"id": "h1", "task_id": unsure["id"], "annotator": person, "payload": payload}
        (answers / "people.jsonl").write_text(json.dumps(row) + "\n")
        alignkit("run", "recipe.yaml", cwd=folder)
        assert len(server.prompts) == asked
    by_kind = {j["annotator"]["kind"]: set() for j in judgements(folder)}
    for judgement in judgements(folder):
        by_kind[judgement["annotator"]["kind"]].add(judgement["task_id"])
    assert by_kind["human"] == {unsure["id"]}
    assert by_kind["model"] == {task["id"] for task in tasks} - {unsure["id"]}
    summary = json.loads((folder / "runs/judged/summary.json").read_text())
    routes = summary["feedback"]["ask"]["about_source"]
    assert (routes["sure"], routes["asked_again"]["unsure"]) == (3, 1)
