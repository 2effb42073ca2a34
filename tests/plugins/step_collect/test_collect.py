"""`collect`: given tasks, rounds that are used, prompts chosen by uncertainty, and what the judgements make."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from alignkit import Component, UserError, hookimpl
from alignkit.batches import Rollout
from alignkit.components import Config, NoConfig
from alignkit.data.store import write_records
from alignkit.engine import run_recipe
from alignkit.feedback import judgements_hash
from alignkit.manager import PluginManager, PluginStatus
from alignkit.protocols import StepOutput
from alignkit.recipe import load_recipe
from alignkit.records import Annotator, Candidate, Critique, Judgement, Prompt, Ranking, Sampling, Task
from alignkit_plugins.step_collect.config import CollectConfig

PROMPTS = [f"prompt {n}" for n in range(12)]


class Words:
    """A sampler: completion k of a prompt is `k` stars (samples of a prompt differ in length)."""

    def rollout(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        """Completions of 1, 2, … stars for each prompt in turn."""
        counts: dict[str, int] = {}
        texts = []
        for prompt in prompts:
            counts[prompt.id] = counts.get(prompt.id, 0) + 1
            texts.append("*" * counts[prompt.id])
        return Rollout(
            prompts=tuple(prompts), prompt_ids=((1,),) * len(prompts), completion_ids=((2,),) * len(prompts),
            texts=tuple(texts), finish=("stop",) * len(prompts), group_B=torch.zeros(len(prompts), dtype=torch.long),
            temperature=1.0, tokenizer_id="",
        )  # fmt: skip


class Longest:
    """Annotates: the longest completion wins. Also counts what it was asked."""

    def annotate(self, tasks: Sequence[Task]) -> list[Judgement]:
        """One ranking per task."""
        return [
            Judgement(
                id=f"j-{task.id}", task_id=task.id, annotator=Annotator(id="longest", kind="program"),
                payload=Ranking(
                    groups=tuple((c.id,) for c in sorted(task.candidates, key=lambda c: -len(c.completion)))
                ),
            )
            for task in tasks
        ]  # fmt: skip

    def annotation_figures(self) -> dict[str, Any]:
        """Something to report."""
        return {"asked": "nicely"}


class Sure:
    """Scores: completions of odd prompts score alike, those of even ones far apart."""

    def score(self, rollout: Rollout) -> Tensor:
        """Length times 0.001 or 10."""
        scale = [0.001 if int(str(p.prompt).split()[1]) % 2 else 10.0 for p in rollout.prompts]
        return torch.tensor([s * len(t) for s, t in zip(scale, rollout.texts, strict=True)])


class ModelConfig(Config):
    """Names a folder that must be there when the source is built."""

    model: str = Field(description="@step")


class Make:
    """A step that leaves prompts."""

    def run(self, context: Any) -> StepOutput:
        """Twelve prompts."""
        write_records(context.folder / "prompts.jsonl", [Prompt(prompt=p) for p in PROMPTS])
        return StepOutput({"": ".", "prompts": "prompts.jsonl"}, {})


class Plugin:
    """The stand-ins above as components."""

    @hookimpl
    def alignkit_policies(self) -> list[Component]:
        """`words`: nothing of it is used but its revision and the size of its vocabulary."""
        policy = MagicMock(revision="words", head=MagicMock(weight_VH=torch.zeros(3, 1)))
        return [Component("words", lambda config, context: policy, NoConfig)]

    @hookimpl
    def alignkit_samplers(self) -> list[Component]:
        """`stars`."""
        return [Component("stars", lambda config, context: Words(), NoConfig)]

    @hookimpl
    def alignkit_reward_sources(self) -> list[Component]:
        """`longest`, `sure`, and `sure_model`, which needs a step's folder."""
        found: list[Component] = [Component("longest", lambda config, context: Longest(), NoConfig)]
        found.append(
            Component("sure_model", lambda config, context: context.resolve(config.model) and Sure(), ModelConfig)
        )
        return [*found, Component("sure", lambda config, context: Sure(), NoConfig)]

    @hookimpl
    def alignkit_steps(self) -> list[Component]:
        """`make`."""
        return [Component("make", lambda config, context: Make(), NoConfig)]


def run(tmp_path: Path, labels: str, *more: str, rounds: int = 1) -> Path:
    """Run a recipe of prompts and one `collect`; returns the run's folder."""
    manager = PluginManager()
    manager.load()
    manager.register(Plugin(), PluginStatus("stand-ins", "test-dist", "1.0"))
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "recipe.yaml"
    steps = ["{id: prompts, step: make}", f"{{id: labels, step: collect, each_round: true, {labels}}}", *more]
    lines = ["name: small", f"output: {tmp_path / 'runs'}", "policy: words", f"rounds: {rounds}", "steps:"]
    path.write_text("\n".join([*lines, *(f"  - {step}" for step in steps)]))
    run_recipe(load_recipe(str(path), (), manager))
    return tmp_path / "runs/small"


SAMPLED = 'prompts: "@prompts", sampler: stars, reward_source: longest, samples_per_prompt: 2, heldout: 0'


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts_of(folder: Path, round: int) -> list[str]:
    return [task["prompt"] for task in rows(folder / f"r{round}/02-labels/tasks.jsonl")]


def test_each_round_asks_about_new_prompts_and_adds_to_the_pairs(tmp_path: Path) -> None:
    folder = run(tmp_path, SAMPLED + ", limit: 4", rounds=3)
    assert [prompts_of(folder, r) for r in (1, 2, 3)] == [PROMPTS[:4], PROMPTS[4:8], PROMPTS[8:]]
    assert [len(rows(folder / f"r{r}/02-labels/preferences.jsonl")) for r in (1, 2, 3)] == [4, 8, 12]


def test_the_newest_rounds_alone(tmp_path: Path) -> None:
    folder = run(tmp_path, SAMPLED + ", limit: 3, accumulate: 2", rounds=4)
    used = [p["prompt"] for p in rows(folder / "r4/02-labels/preferences.jsonl")]
    assert used == PROMPTS[6:12]
    again = run(tmp_path / "b", SAMPLED + ", limit: 3, accumulate: false", rounds=2)
    assert [p["prompt"] for p in rows(again / "r2/02-labels/preferences.jsonl")] == PROMPTS[3:6]


def test_the_summary_names_what_was_learned_from(tmp_path: Path) -> None:
    folder = run(tmp_path, SAMPLED)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["simulation"] == "Judgements come from a program (longest), not from people."
    figures = summary["feedback"]["labels"]
    judgements = [Judgement.model_validate(row) for row in rows(folder / "r1/02-labels/judgements.jsonl")]
    assert figures["snapshot"] == judgements_hash(reversed(judgements))
    assert figures["policies"] == ["words"]
    assert figures["about_source"] == {"asked": "nicely"}
    assert figures["pairs"] == 12
    assert figures["agreement"]["preference"]["annotators"] == 1


def test_from_the_second_round_the_prompts_that_the_scores_leave_open_are_asked(tmp_path: Path) -> None:
    folder = run(tmp_path, SAMPLED + ", limit: 3, pool: 2, choose_by: sure", rounds=2)
    assert prompts_of(folder, 1) == PROMPTS[:3]
    assert prompts_of(folder, 2) == [PROMPTS[3], PROMPTS[5], PROMPTS[7]], "of prompts 3 to 8"
    figures = json.loads((folder / "summary.json").read_text())["rounds"][1]["feedback"]["labels"]
    assert figures["prompts_not_chosen"] == 3


def test_what_cannot_choose_is_found_out_before_anything_is_sampled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose_by needs scores, and reward source 'longest' gives judgements"):
        run(tmp_path, SAMPLED + ", limit: 3, choose_by: longest", rounds=2)
    assert not (tmp_path / "runs/small/r1/02-labels/tasks.jsonl").exists()


def test_what_only_the_first_round_makes_chooses_from_the_second_on(tmp_path: Path) -> None:
    chosen = ', limit: 3, pool: 2, choose_by: {name: sure_model, model: "@later"}'
    folder = run(tmp_path, SAMPLED + chosen, "{id: later, step: make, each_round: true}", rounds=2)
    assert prompts_of(folder, 2) == [PROMPTS[3], PROMPTS[5], PROMPTS[7]]


def test_choose_by_may_name_a_later_step_other_options_may_not(tmp_path: Path) -> None:
    later = "{id: later, step: make, each_round: true}"
    folder = run(tmp_path, SAMPLED + ", limit: 3, choose_by: sure", later, rounds=1)
    assert folder.is_dir()
    unknown = SAMPLED + ', limit: 3, choose_by: {name: reward_model, model: "@latr"}'
    with pytest.raises(UserError, match="@latr refers to no earlier step"):
        run(tmp_path / "b", unknown, later)
    named = SAMPLED.replace('"@prompts"', '"@later"') + ", limit: 3"
    with pytest.raises(UserError, match="@later refers to no earlier step"):
        run(tmp_path / "c", named, later)
    once = SAMPLED + ', limit: 3, choose_by: {name: reward_model, model: "@later"}'
    with pytest.raises(UserError, match="@later refers to no earlier step"):
        run(tmp_path / "d", once, "{id: later, step: make}")


def given(id: str, *texts: str, prompt: str = "") -> Task:
    candidates = tuple(
        Candidate(
            id=f"{id}{n}", prompt_id="p", prompt=prompt, completion=text, seed=0, policy_revision="imported",
            sampling=Sampling(), prompt_ids=(), completion_ids=(), finish_reason="stop",
        )
        for n, text in enumerate(texts)
    )  # fmt: skip
    return Task(id=id, prompt=prompt, candidates=candidates)


def test_tasks_made_elsewhere_are_judged_as_they_are(tmp_path: Path) -> None:
    tasks = [given(f"t{n}", "a", "bb") for n in range(200)]
    write_records(tmp_path / "tasks.jsonl", [*tasks, given("one", "alone")])
    labels = f"tasks: {tmp_path / 'tasks.jsonl'}, reward_source: longest, heldout: 0.3"
    folder = run(tmp_path, labels)
    summary = json.loads((folder / "summary.json").read_text())["feedback"]["labels"]
    assert summary["tasks"] == 200
    assert summary["tasks_with_one_candidate"] == 1
    assert 35 < summary["heldout_pairs"] < 85, "texts without a prompt are held out one by one"
    assert summary["pairs"] + summary["heldout_pairs"] == 200


def test_another_source_on_the_same_items(tmp_path: Path) -> None:
    again = '{id: again, step: collect, tasks: "@labels.tasks", reward_source: longest}'
    folder = run(tmp_path, SAMPLED, again)
    assert rows(folder / "r1/03-again/tasks.jsonl") == rows(folder / "r1/02-labels/tasks.jsonl")


def test_later_rounds_go_on_in_the_tasks_that_are_given(tmp_path: Path) -> None:
    write_records(tmp_path / "tasks.jsonl", [given(f"t{n}", "a", "bb") for n in range(5)])
    labels = f"tasks: {tmp_path / 'tasks.jsonl'}, reward_source: longest, heldout: 0"
    folder = run(tmp_path, labels + ", limit: 3", rounds=2)
    assert [[t["id"] for t in rows(folder / f"r{r}/02-labels/tasks.jsonl")] for r in (1, 2)] == [
        ["t0", "t1", "t2"], ["t3", "t4"],
    ]  # fmt: skip
    with pytest.raises(UserError, match="all 5 tasks were asked in the rounds before"):
        run(tmp_path / "b", labels, rounds=2)


def test_given_tasks_that_cannot_be_used(tmp_path: Path) -> None:
    write_records(tmp_path / "twice.jsonl", [given("t", "a", "b"), given("t", "c", "d")])
    write_records(tmp_path / "alone.jsonl", [given("t", "a")])
    for name, problem in (
        ("twice", "two tasks have the id 't'"), ("alone", "no task with two"), ("none", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=problem):
            run(tmp_path / name, f"tasks: {tmp_path / name}.jsonl, reward_source: longest")


def test_options_that_contradict_each_other() -> None:
    for options in ({}, {"prompts": "@p", "tasks": "t"}, {"prompts": "@p", "choose_by": "sure"}):
        with pytest.raises(ValidationError):
            CollectConfig.model_validate({"reward_source": "longest", **options})


def test_a_revision_is_a_pair_and_a_demonstration(tmp_path: Path) -> None:
    tasks = [given(f"t{n}", "a", "bb", prompt=f"Q{n}") for n in range(40)]
    write_records(tmp_path / "tasks.jsonl", tasks)
    who = Annotator(id="ann", kind="human")
    critiques = [
        Judgement(
            id=f"{task.id}-{n}", task_id=task.id, annotator=who,
            payload=Critique(candidate=task.candidates[n].id, text="too short", revision="better" if n else None),
        )
        for task in tasks
        for n in range(2)
    ]  # fmt: skip
    write_records(tmp_path / "people.jsonl", critiques)
    people = f"{{name: human, form: critique, judgements: {tmp_path / 'people.jsonl'}}}"
    folder = run(tmp_path, f"tasks: {tmp_path / 'tasks.jsonl'}, reward_source: {people}, heldout: 0.3") / "r1/02-labels"
    shown, pairs = rows(folder / "demonstrations.jsonl"), rows(folder / "preferences.jsonl")
    heldout = rows(folder / "heldout_demonstrations.jsonl")
    assert len(shown) + len(heldout) == 40
    assert heldout
    assert shown[0] == {"prompt": pairs[0]["prompt"], "completion": "better"}
    assert (pairs[0]["chosen"], pairs[0]["rejected"]) == ("better", "bb")
