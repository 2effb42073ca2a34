"""The shipped recipes end to end, cut down: what a run leaves, and that plain transformers reads it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from helpers.commands import alignkit

SMALL = [
    "corpus.format.rows=400",
    "corpus.format.prompts=120",
    "corpus.format.test_prompts=24",
    "policy.init.preset=nano",
    "policy.tokenizer.vocab_size=400",
    "labels.limit=40",
    "labels.heldout=0.3",
    "reward.optimizer_stage.epochs=1",
    "aligned.iterations=2",
    "aligned.batch_size=16",
    "aligned.eval_limit=16",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two rounds of the small quickstart in it."""
    folder = tmp_path_factory.mktemp("quickstart")
    alignkit("run", "quickstart", *SMALL, "rounds=2", cwd=folder)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_summary_has_what_the_readme_promises(work: Path) -> None:
    summary = read(work / "runs/quickstart/summary.json")
    assert set(summary["reward_model"]) >= {"accuracy", "accuracy_longest_baseline"}
    assert set(summary["ppo"]) >= {"reward_start", "reward_end", "true_reward_start", "true_reward_end", "kl"}
    assert set(summary["policy"]["win_rate"]) == {"mean", "low", "high", "n"}
    assert summary["policy"]["win_rate"]["n"] == 24
    assert "simulated" in summary["simulation"]
    assert len(summary["rounds"]) == 2
    assert summary["rounds"][1]["ppo"] == summary["ppo"], "the last round stands on top"
    assert read(work / "runs/quickstart/timing.json")["seconds"] > 0


def test_before_the_first_update_the_ratio_is_one(work: Path) -> None:
    rows = [json.loads(line) for line in (work / "runs/quickstart/metrics.jsonl").open()]
    first = [r for r in rows if r["step"] == "aligned" and r["index"] == 1]
    assert len(first) == 2, "one first iteration in each round"
    for row in first:
        assert row["first_ratio_error"] < 1e-4
        assert row["first_clipped"] == 0
        assert row["sampler_mismatch"] < 1e-3
    assert abs(first[0]["kl"]) < 1e-4, "round 1 starts at the reference"


def test_the_second_round_starts_from_the_first_rounds_policy_and_keeps_its_labels(work: Path) -> None:
    run = work / "runs/quickstart"
    one = read(run / "r1/06-aligned/manifest.json")
    labels = read(run / "r2/04-labels/manifest.json")
    assert labels["identity"]["inputs"]["@latest"] == one["hash"]
    revisions = {
        task["candidates"][0]["policy_revision"]
        for round in (1, 2)
        for task in map(json.loads, (run / f"r{round}/04-labels/tasks.jsonl").open())
    }
    assert len(revisions) == 2, "each round samples from its own policy"
    pairs = [len((run / f"r{r}/04-labels/preferences.jsonl").read_text().splitlines()) for r in (1, 2)]
    assert pairs[1] > pairs[0], "later rounds add to the pairs"


def test_folders_load_with_plain_transformers(work: Path) -> None:
    run = work / "runs/quickstart/r1"
    tokenizer = AutoTokenizer.from_pretrained(run / "06-aligned/model")
    policy = AutoModelForCausalLM.from_pretrained(run / "06-aligned/model")
    ids = tokenizer("The new film", return_tensors="pt").input_ids
    out = policy.generate(ids, max_new_tokens=8, do_sample=False)
    assert out.shape[1] > ids.shape[1]
    reward = AutoModelForSequenceClassification.from_pretrained(run / "05-reward/model")
    assert reward.config.num_labels == 1
    with torch.no_grad():
        assert math.isfinite(float(reward(ids).logits))
    assert not list(run.rglob("*.bin")), "no pickled weights anywhere"
    assert not list(run.rglob("*.pt")), "no pickled weights anywhere"


def test_running_again_repeats_nothing(work: Path) -> None:
    run = work / "runs/quickstart"
    before = {p: p.stat().st_mtime_ns for p in run.glob("r*/*/manifest.json")}
    assert len(before) == 7 + 4
    alignkit("run", "quickstart", *SMALL, "rounds=2", cwd=work)
    assert {p: p.stat().st_mtime_ns for p in run.glob("r*/*/manifest.json")} == before


def test_report_shows_the_run(work: Path) -> None:
    page = (work / "runs/quickstart/report.html").read_text(encoding="utf-8")
    assert "simulated" in page
    assert "<svg" in page
    assert "<script" not in page


def test_sample_reads_the_result(work: Path) -> None:
    model = "runs/quickstart/r1/06-aligned/model"
    options = ["--prompt", "The new film", "--json", "max_length=8", "seed=3"]
    one, two = (alignkit("sample", model, *options, cwd=work).stdout for _ in range(2))
    assert one == two, "the seed decides"
    assert json.loads(one)["prompt"] == "The new film"


def test_human_source_pauses_and_goes_on(work: Path, tmp_path: Path) -> None:
    """Swapping the source is one word; the run waits for judgements and then finishes."""
    arguments = [
        "run",
        "quickstart",
        *SMALL,
        "reward_source=human",
        "name=people",
        "--reuse",
        str(work / "runs/quickstart"),
    ]
    paused = alignkit(*arguments, cwd=tmp_path, status=3)
    assert "alignkit run quickstart" in paused.stderr
    tasks = [json.loads(line) for line in (tmp_path / "runs/people/r1/04-labels/tasks.jsonl").open()]
    assert len(tasks) == 40
    folder = tmp_path / "runs/people/judgements"
    folder.mkdir(exist_ok=True)
    with (folder / "anna.jsonl").open("w") as file:
        for task in tasks:
            ids = sorted(task["candidates"], key=lambda c: -len(c["completion"]))
            judgement = {
                "id": f"anna-{task['id']}",
                "task_id": task["id"],
                "annotator": {"id": "anna", "kind": "human"},
                "payload": {"type": "ranking", "groups": [[c["id"]] for c in ids]},
            }
            file.write(json.dumps(judgement) + "\n")
    alignkit(*arguments, cwd=tmp_path)
    again = [json.loads(line) for line in (tmp_path / "runs/people/r1/04-labels/tasks.jsonl").open()]
    assert again == tasks, "people judged these completions, so they may not change"
    summary = read(tmp_path / "runs/people/summary.json")
    assert summary["feedback"]["labels"]["annotators"] == ["anna"]
    assert "simulation" not in summary
    assert summary["reward_model"]["accuracy_longest_baseline"] > 0.95, "anna likes long answers"
