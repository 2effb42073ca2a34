"""Whole recipes: models that steps keep, steps that start from them, and runs that were told to end on the way."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from alignkit import hookimpl
from alignkit.engine import run_recipe
from alignkit.errors import Terminated, UserError
from alignkit.manager import PluginManager, PluginStatus
from alignkit.recipe import load_recipe
from helpers.models import make_policy, make_tokenizer

pytestmark = pytest.mark.slow

RECIPE = """
name: kept
policy: {{name: causal_lm, path: {folder}/start}}
trackers: [jsonl]
steps:
  - {{id: data, step: data, format: prompts, files: {folder}/prompts.jsonl, heldout: 0.3}}
  - {{id: texts, step: data, format: prompt_completion, files: {folder}/rows.jsonl, heldout: 0.3}}
  - {{id: sft, step: train, data: "@texts",
     optimizer_stage: {{name: sft, lr: 1.0e-3, batch_size: 4, log_every: 1, epochs: 3,
       eval_every: 2, keep_every: 3, keep_best: {{metric: heldout_loss, mode: min}}}}}}
  - {{id: aligned, step: align, policy: "@sft.best", prompts: "@data",
     reward_source: {{name: length, coef: 1.0}}, advantage: rloo, optimizer_stage: {{name: ppo, lr: 1.0e-3, epochs: 1}},
     samples_per_prompt: 2, sampling: {{max_length: 6}}, iterations: 4, batch_size: 8,
     eval_every: 1, keep_every: 2, keep_best: {{metric: eval_reward, mode: max}}}}
  - {{id: last, step: evaluate, policy: "@aligned.best", against: "@aligned.at_2", prompts: "@data",
     judge: {{name: length, coef: 1.0}}, sampling: {{max_length: 6}}}}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipes read."""
    folder = tmp_path_factory.mktemp("start")
    make_policy("llama", make_tokenizer()).save(folder / "start")
    prompts = [{"prompt": f"the film number {n}"} for n in range(12)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    rows = [{**row, "completion": " is warm and I recommend it"} for row in prompts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "kept.yaml").write_text(RECIPE.format(folder=folder))
    return folder


class Listener:
    """Hears of models and iterations, and does something in the midst of one."""

    def __init__(self, when: tuple[str, int] = ("", 0), act: Callable[[], None] = lambda: None) -> None:
        self.when, self.act = when, act
        self.models: list[str] = []

    @hookimpl
    def alignkit_checkpoint(self, run: Any, folder: Path) -> None:
        """A model."""
        assert (folder / "model.safetensors").is_file()
        self.models.append(str(folder.relative_to(run.folder)))

    @hookimpl
    def alignkit_iteration_start(self, iteration: int) -> None:
        """Completions are about to be sampled."""
        if self.when == ("start", iteration):
            self.act()

    @hookimpl
    def alignkit_iteration_end(self, iteration: int) -> None:
        """The row is logged."""
        if self.when == ("end", iteration):
            self.act()


def run(start: Path, output: Path, *overrides: str, listener: Listener | None = None) -> dict[str, Any]:
    manager = PluginManager()
    manager.load()
    manager.register(listener or Listener(), PluginStatus("listener", "own", "1"))
    return run_recipe(load_recipe(str(start / "kept.yaml"), [f"output={output}", *overrides], manager))


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """The run that nobody interrupts: its folder, summary and the models that were announced."""
    output, listener = tmp_path_factory.mktemp("whole"), Listener()
    return output / "kept", run(start, output, listener=listener), listener.models


def rows(step: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (step / "metrics.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """Everything of a run but its times, the report, which has them too, and what names the run's own folder."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    left_out = ("timing.json", "manifest.json", "report.html", "plugins.json", "recipe.json", "findings.json", "lock")
    return {name: content for name, content in found.items() if not name.endswith(left_out)}


class TestWhole:
    def test_steps_name_the_models_that_they_kept(self, whole: tuple[Path, dict[str, Any], list[str]]) -> None:
        folder, _, _ = whole
        outputs = {
            step: json.loads((folder / "r1" / step / "manifest.json").read_text())["outputs"]
            for step in ("03-sft", "04-aligned")
        }
        assert outputs["03-sft"] == {
            "": "model",
            "policy": "model",
            "best": "best",
            "at_3": "models/00000003",
            "at_6": "model",
        }
        assert outputs["04-aligned"] == {
            "": "model",
            "policy": "model",
            "best": "best",
            "at_2": "models/00000002",
            "at_4": "model",
        }

    def test_the_best_of_the_alignment_is_told_by_its_measurements(
        self, whole: tuple[Path, dict[str, Any], list[str]]
    ) -> None:
        folder, summary, _ = whole
        step = folder / "r1" / "04-aligned"
        values = {row["index"]: row["eval_reward"] for row in rows(step)}
        assert list(values) == [0, 1, 2, 3, 4]
        at = max(values, key=values.__getitem__)
        assert summary["ppo"]["best"] == {"metric": "eval_reward", "at": at, "value": values[at]}
        assert json.loads((step / "best/kept.json").read_text())["index"] == at

    def test_every_model_is_announced_when_it_is_there(self, whole: tuple[Path, dict[str, Any], list[str]]) -> None:
        """While the step goes on, and each part of the result once more at its end."""
        _, _, models = whole
        own = [m for m in models if m.startswith("r1/04-aligned/")]
        last = [f"r1/04-aligned/{part}" for part in ("best", "model", "models/00000002")]
        assert own[-3:] == last
        assert own.count("r1/04-aligned/models/00000002") == 2
        assert "r1/04-aligned/best" in own[:-3]


@pytest.mark.parametrize("when", [("start", 1), ("end", 1), ("start", 3), ("end", 3), ("end", 4)], ids=str)
def test_a_run_that_was_told_to_end_goes_on_and_ends_alike(
    start: Path, tmp_path: Path, whole: tuple[Path, dict[str, Any], list[str]], when: tuple[str, int]
) -> None:
    """A real signal, by the engine's own handlers; the same command goes on."""
    listener = Listener(when, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated):
        run(start, tmp_path, listener=listener)
    assert any((tmp_path / "kept/r1/04-aligned/checkpoints").iterdir())
    summary = run(start, tmp_path)
    folder, expected, _ = whole
    assert summary == expected
    assert files(tmp_path / "kept") == files(folder)
    assert not (tmp_path / "kept/r1/04-aligned/checkpoints").exists()


def test_a_changed_recipe_does_not_go_on_with_it(start: Path, tmp_path: Path) -> None:
    listener = Listener(("start", 2), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated):
        run(start, tmp_path, listener=listener)
    with pytest.raises(UserError, match="keep_every"):
        run(start, tmp_path, "aligned.keep_every=1")


def test_the_best_needs_measurements(start: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'eval_rewards' is not measured") as error:
        run(start, tmp_path, "aligned.keep_best.metric=eval_rewards")
    assert "eval_reward, eval_kl" in (error.value.hint or "")
    assert load_file(tmp_path / "kept/r1/03-sft/best/model.safetensors")
