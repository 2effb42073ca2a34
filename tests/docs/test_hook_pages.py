"""Every hook has a page whose heading is its signature and whose example works."""

import inspect
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from alignkit import Paused
from alignkit.context import RunInfo
from alignkit.engine import run_recipe
from alignkit.hooks import shape_scores
from alignkit.hookspecs import HOOKSPEC_CLASSES, REGISTRATION_HOOKS, Lifecycle, Registration
from alignkit.manager import PluginManager
from alignkit.recipe import ComponentSpec, load_recipe
from alignkit.recipe.check import resolve
from alignkit.testing.context import make_context
from alignkit.testing.tiny import random_rollout, tiny_policy
from helpers.pages import DOCS, ROOT, blocks

HOOKS: dict[str, Callable[..., Any]] = {
    name: function for spec in HOOKSPEC_CLASSES for name, function in vars(spec).items() if name.startswith("alignkit_")
}
KIND_OF = {hook: kind for kind, hook in REGISTRATION_HOOKS.items()}
FIRED = {
    "alignkit_run_start": "machine.json",
    "alignkit_run_end": "../finished.jsonl",
    "alignkit_round_start": "disk.txt",
    "alignkit_round_end": "round_1.txt",
    "alignkit_step_start": "began.txt",
    "alignkit_step_end": "sizes.csv",
    "alignkit_iteration_start": "seconds.csv",
    "alignkit_iteration_end": "kl.csv",
    "alignkit_rollouts": "first_completions.jsonl",
    "alignkit_judgements": "annotators_labels.json",
    "alignkit_checkpoint": "weights.sha256",
    "alignkit_failure": "../failures.txt",
}
OPTIONS: dict[str, dict[str, Any]] = {"note": {"text": "written down"}}


def page(hook: str) -> Path:
    """The page of a hook."""
    return DOCS / "hooks" / f"{hook}.md"


def signature(function: Callable[..., Any]) -> str:
    """As in the source, without `self`, quotes and modules."""
    whole = inspect.signature(function)
    shown = str(whole.replace(parameters=[p for n, p in whole.parameters.items() if n != "self"]))
    return function.__name__ + re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", shown.replace("'", ""))


def load_example(hook: str, folder: Path, manager: PluginManager) -> None:
    """The page's one example as a plugin file."""
    codes = [block.text for block in blocks(page(hook)) if block.title == "plugin.py"]
    assert len(codes) == 1, hook
    file = folder / f"{hook}_example.py"
    file.write_text(codes[0], encoding="utf-8")
    status = manager.load_file(file)
    assert status.problem is None, f"{hook}: {status.problem}"
    assert f"def {hook}(" in codes[0]


def test_there_are_24_hooks_and_no_other_page() -> None:
    assert len(HOOKS) == 24
    assert {path.stem for path in (DOCS / "hooks").glob("*.md")} == {*HOOKS, "index"}
    assert set(FIRED) == {name for name in vars(Lifecycle) if name.startswith("alignkit_")}


@pytest.mark.parametrize("hook", HOOKS)
def test_the_heading_is_the_signature_and_nothing_is_left_unsaid(hook: str) -> None:
    text = page(hook).read_text(encoding="utf-8")
    assert re.findall(r"^# (.+)$", text.split("## Example")[0], re.MULTILINE) == [f"`{signature(HOOKS[hook])}`"]
    assert text.startswith(f"---\ntitle: {hook}\n---\n")
    said = re.findall(r"^\*\*(\w[\w ]*)\*\*", text, re.MULTILINE)
    assert said == ["Called", "Order", "Returns", "If it raises"]


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [hook for hook in HOOKS if f"- {hook}: hooks/{hook}.md\n" not in listed] == []


@pytest.mark.parametrize("hook", [n for n in vars(Registration) if n.startswith("alignkit_")])
def test_a_registration_example_can_be_named_and_built(hook: str, tmp_path: Path) -> None:
    manager = PluginManager()
    manager.load()
    kind = KIND_OF[hook]
    before = set(manager.names(kind))
    load_example(hook, tmp_path, manager)
    (name,) = set(manager.names(kind)) - before
    options = OPTIONS.get(name, {})
    if kind == "policy":
        tiny_policy().save(tmp_path / "model")
        options = {"path": str(tmp_path / "model")}
    resolved = resolve(manager, kind, ComponentSpec(name=name, **options), allowed=frozenset())
    context = None if kind in ("kernel", "command") else make_context(tmp_path, manager=manager)
    assert resolved.registered.build(resolved.config, context) is not None


CONFORMANCE = """
import alignkit_advantages, alignkit_data_formats, alignkit_kernels, alignkit_optimizer_stages, alignkit_policies
import alignkit_reward_sources
from alignkit.testing import (
    AdvantageContract, DataFormatContract, KernelContract, PolicyContract, RolloutStageContract, ScoresContract
)
from alignkit.testing.tiny import tiny_policy

class TestAdvantage(AdvantageContract):
    plugin, component = alignkit_advantages, "batch_mean"

class TestFormat(DataFormatContract):
    plugin, component = alignkit_data_formats, "prompt_lines"
    good_rows, bad_rows = ("one", "two"), ({"prompt": "an object"},)

class TestKernel(KernelContract):
    plugin, component = alignkit_kernels, "double_pairs"

class TestPolicy(PolicyContract):
    plugin, component = alignkit_policies, "frozen_embeddings"
    def make_options(self, folder):
        tiny_policy().save(folder / "model")
        return {"path": str(folder / "model")}

class TestScores(ScoresContract):
    plugin, component, completions = alignkit_reward_sources, "questions", ("Why?", "Because.")

class TestStage(RolloutStageContract):
    plugin, component, options = alignkit_optimizer_stages, "weighted_reinforce", {"lr": 1e-3}
"""


@pytest.mark.slow
def test_registration_examples_keep_their_contracts(tmp_path: Path) -> None:
    # `longest` is left out: it says of itself that what it keeps are no samples of the policy.
    for hook in KIND_OF:
        (code,) = [block.text for block in blocks(page(hook)) if block.title == "plugin.py"]
        (tmp_path / f"{hook}.py").write_text(code, encoding="utf-8")
    (tmp_path / "test_examples.py").write_text(CONFORMANCE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_examples.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.rsplit(" passed", 1)[0].split()[-1]) > 150


RECIPE = """
name: small
policy: {name: causal_lm, path: model}
trackers: []
steps:
  - {id: prompts, step: data, files: prompts.jsonl, format: prompts}
  - {id: labels, step: collect, prompts: "@prompts", samples_per_prompt: 2, sampling: {max_length: 6},
     reward_source: {name: simulated, utility: {name: length, coef: 0.1}}}
  - {id: aligned, step: align, prompts: "@prompts", iterations: 2, batch_size: 4, sampling: {max_length: 6},
     reward_source: {name: length, coef: 0.1}, advantage: rloo, optimizer_stage: {name: reinforce, lr: 1.0e-3}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run with every lifecycle example and the transform; and what was logged as failed."""
    folder = tmp_path_factory.mktemp("lifecycle")
    tiny_policy().save(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"the film {n}"}) + "\n" for n in range(6)))
    recipe = {**yaml.safe_load(RECIPE), "output": str(folder / "runs")}
    recipe["policy"]["path"] = str(folder / "model")
    recipe["steps"][0]["files"] = str(folder / "prompts.jsonl")
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    manager = PluginManager()
    manager.load()
    for hook in [*FIRED, "alignkit_shape_scores"]:
        load_example(hook, folder, manager)
    errors = Errors()
    logging.getLogger("alignkit").addHandler(errors)
    try:
        run_recipe(load_recipe(str(folder / "small.yaml"), (), manager))
        waiting = load_recipe(str(folder / "small.yaml"), ("name=waiting", "labels.reward_source=human"), manager)
        with pytest.raises(Paused):
            run_recipe(waiting)
    finally:
        logging.getLogger("alignkit").removeHandler(errors)
    return folder / "runs" / "small", "\n".join(errors.seen)


class Errors(logging.Handler):
    """Keeps what a broken listener leaves in the log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it with its traceback."""
        self.seen.append(f"{record.getMessage()}\n{record.exc_info}")


@pytest.mark.parametrize("hook", FIRED)
def test_a_lifecycle_example_fires(hook: str, finished: tuple[Path, str]) -> None:
    run, failed = finished
    assert failed == ""
    assert (run / FIRED[hook]).read_text().strip()


def test_what_the_examples_saw_is_what_happened(finished: tuple[Path, str]) -> None:
    run, _ = finished
    lines = {hook: (run / file).read_text().splitlines() for hook, file in FIRED.items()}
    assert [line.split()[1:] for line in lines["alignkit_step_start"]] == [
        ["r1", "prompts"],
        ["r1", "labels"],
        ["r1", "aligned"],
    ]
    assert [line.rsplit(",", 1)[0] for line in lines["alignkit_step_end"]] == ["r1,prompts", "r1,labels", "r1,aligned"]
    assert [line.split(",")[:2] for line in lines["alignkit_iteration_end"]] == [["aligned", "1"], ["aligned", "2"]]
    assert len(lines["alignkit_iteration_start"]) == len(lines["alignkit_rollouts"]) == 2
    assert [json.loads(line)["name"] for line in lines["alignkit_run_end"]] == ["small"]
    assert lines["alignkit_failure"][0].startswith("waiting: step labels waits for people: Paused:")
    assert [line.split()[1] for line in lines["alignkit_checkpoint"]] == ["r1/03-aligned/model/model.safetensors"]
    counted = json.loads((run / FIRED["alignkit_judgements"]).read_text())
    assert sum(counted.values()) == 6


def test_the_transform_example_lowers_repeated_completions(tmp_path: Path) -> None:
    manager = PluginManager()
    load_example("alignkit_shape_scores", tmp_path, manager)
    rollout = random_rollout(tiny_policy(), samples=2)
    same = rollout.__class__(**{**vars(rollout), "texts": ("a", "a", "b", "c", "d", "a")})
    info = RunInfo("x", tmp_path, 0, 1, {})
    shaped_B = shape_scores(manager, info, same, torch.zeros(6))
    third = 0.5 * 2 / 6
    assert shaped_B.tolist() == pytest.approx([-third, -third, 0, 0, 0, -third])
