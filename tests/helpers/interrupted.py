"""A small run with real models, in this process, that is interrupted at an exact place and compared to the byte."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig
from alignkit.engine import run_recipe
from alignkit.manager import PluginManager, PluginStatus
from alignkit.recipe import load_recipe
from helpers.pages import ROOT

RECIPE = """\
name: small
seed: 3
policy:
  name: causal_lm
  init: {preset: nano, max_position_embeddings: 256}
  tokenizer: {train_on: "@corpus", vocab_size: 300}
steps:
  - {id: corpus, step: data, format: {name: film_world, rows: 60, prompts: 12, test_prompts: 4}}
  - id: base
    step: train
    optimizer_stage: {name: pretrain, batch_size: 4, block_length: 32, epochs: 0.2, log_every: 2}
    data: "@corpus"
  - id: sft
    step: train
    policy: "@base"
    optimizer_stage: {name: sft, batch_size: 8, epochs: 2, log_every: 1, lr: 1e-3}
    data: "@corpus"
"""
# The step that is interrupted, and its number of optimizer steps.
STEP, LAST = "sft", 16


def comparison() -> Any:
    """benchmarks/reliability/compare.py, which knows what of two runs has to be the same."""
    path = ROOT / "benchmarks/reliability/compare.py"
    spec = importlib.util.spec_from_file_location("reliability_compare", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Interrupter:
    """A tracker that does something at one row of the step `sft`, and remembers what was logged."""

    at: int | None = None
    act: Callable[[], None] = lambda: None
    at_start: Callable[[], None] = lambda: None
    at_close: Callable[[], None] = lambda: None
    rows: list[tuple[str, int]] = field(default_factory=list)
    step: str = ""

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """Satisfies `Tracker`."""
        self.step = step_id
        if step_id == STEP:
            self.at_start()

    def log(self, step_id: str, index: int, metrics: Any) -> None:
        """Satisfies `Tracker`."""
        self.rows.append((step_id, index))
        if (step_id, index) == (STEP, self.at):
            self.act()

    def close(self) -> None:
        """Satisfies `Tracker`."""
        if self.step == STEP:
            self.step = ""
            self.at_close()

    @hookimpl
    def alignkit_trackers(self) -> list[Component]:
        """Itself, for every run."""
        build = lambda config, context: self  # noqa: E731
        return [Component("interrupter", build, NoConfig, tags=frozenset({"default"}))]


@dataclass
class Training:
    """Runs `RECIPE` in a folder."""

    folder: Path

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return self.folder / "runs/small"

    @property
    def step_folder(self) -> Path:
        """That of the step that is interrupted."""
        return self.run_folder / f"r1/03-{STEP}"

    def run(self, *overrides: str, interrupter: Interrupter | None = None, **options: Any) -> list[tuple[str, int]]:
        """Run it; the rows of metrics that were logged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chdir(self.folder)  # `output` is relative, so that the records of two folders are the same
        (self.folder / "small.yaml").write_text(RECIPE)
        tracker = interrupter or Interrupter()
        manager = PluginManager()
        manager.load()
        manager.register(tracker, PluginStatus("interrupter", "test-dist", "1.0"))
        run_recipe(load_recipe("small.yaml", overrides, manager), **options)
        return tracker.rows

    def checkpoints(self) -> list[str]:
        """Names of the step's checkpoints, the oldest first."""
        return sorted(p.name for p in (self.step_folder / "checkpoints").glob("*"))

    def content(self) -> dict[str, str]:
        """Every file of the run with its hash, times left out."""
        found: dict[str, str] = comparison().content(self.run_folder)
        return found
