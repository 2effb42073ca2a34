"""A kill, or a full disk, at every single change of the file system: the next run ends like one that had no trouble."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.protocols import StepOutput
from helpers.crash_points import full_from, in_child, kill_before
from helpers.interrupted import comparison

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]

A = "id: a, step: count, total: 1"
B = 'id: b, step: count, after: "@a", total: 5'
C = 'id: c, step: count, after: "@b", total: 1, each_round: true'
TOP = "rounds: 2\ncheckpoints: {seconds: null, steps: 2}"
BESIDE = TOP.replace("2}", "2, background: true}")
MANY = 2000


class CountConfig(Config):
    """Options of the step `count`."""

    total: int = Field(description="how far it counts")
    after: str | None = Field(None, description="@id of a step whose sum comes first")


class Count:
    """Adds up numbers of every generator, with a row of metrics and a safe point after each."""

    def __init__(self, config: CountConfig) -> None:
        self.config = config

    def run(self, context: Any) -> StepOutput:
        """Satisfies `Step`."""
        random.seed(context.seed)
        total = 0.0
        if self.config.after:
            total = float((context.resolve(self.config.after) / "model/model.safetensors").read_text())
        with context.checkpoints.loop() as loop:
            state = loop.restored() or {"n": 0, "total": total}
            total = state["total"]
            for n in range(state["n"] + 1, self.config.total + 1):
                total += random.random() + float(torch.rand(()))
                context.log(n, {"total": total})
                loop.safe_point(n, lambda n=n, total=total: {"n": n, "total": total, "tensor": torch.tensor(n)})
        model = context.folder / "model"
        model.mkdir(exist_ok=True)
        (model / "model.safetensors").write_text(repr(total))
        return StepOutput({"": "."}, {"total": total})


class CountPlugin:
    """Registers `count`."""

    @hookimpl
    def alignkit_steps(self) -> list[Component]:
        """The step."""
        return [Component("count", lambda config, context: Count(config), CountConfig)]


@pytest.fixture
def counting(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bench with the recipe written and one whole run, `whole`, done."""
    # The page takes half of a run's time, and is written atomically like the files beside it.
    monkeypatch.setattr("alignkit.report.write_report", lambda folder: None)
    bench.extra = {"count": CountPlugin()}
    bench.recipe(A, B, C, top=TOP)
    bench.run("name=whole")
    return bench


def content(bench: Any, name: str) -> dict[str, str]:
    """Every file of a run with its hash, times and the run's name left out."""
    folder = bench.folder / "runs" / name
    found: dict[str, str] = comparison().content(folder)
    for named in ("summary.json", "recipe.json"):
        text = (folder / named).read_text().replace(f'"name": "{name}"', "")
        found[named] = text.replace('"background": true', '"background": null')
    return found


def nothing(bench: Any) -> None:
    """Start without a run folder."""


def finished(bench: Any) -> None:
    """Start with a finished run."""
    shutil.copytree(bench.folder / "runs/whole", bench.run_folder)
    for path in (bench.run_folder / "summary.json", bench.run_folder / "recipe.json"):
        path.write_text(path.read_text().replace('"name": "whole"', '"name": "small"'))


def half_way(bench: Any) -> None:
    """Start with a run whose second step was killed between two checkpoints; the next ones are written beside it."""
    if not (bench.folder / "half").exists():
        assert in_child(bench.run, kill_before(60, bench.run_folder)) == -signal.SIGKILL
        assert sorted(p.name for p in (bench.run_folder / "r1/02-b/checkpoints").glob("1-*"))
        bench.run_folder.rename(bench.folder / "half")
        bench.recipe(A, B, C, top=BESIDE)
    shutil.copytree(bench.folder / "half", bench.run_folder)


COMMANDS: dict[str, tuple[Callable[[Any], None], dict[str, Any], int]] = {
    "a new run": (nothing, {}, 100),
    "going on": (half_way, {}, 50),
    "--from": (finished, {"start_from": "b"}, 100),
    "--reuse": (nothing, {"reuse": ["runs/whole"]}, 50),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_kill_before_any_change_of_the_disk(case: str, counting: Any, capfd: pytest.CaptureFixture[str]) -> None:
    prepare, options, least = COMMANDS[case]
    if "reuse" in options:
        options = {"reuse": [counting.folder / "runs/whole"]}
    whole = content(counting, "whole")
    assert len(whole) > 15
    for number in range(1, MANY):
        shutil.rmtree(counting.run_folder, ignore_errors=True)
        prepare(counting)
        status = in_child(lambda: counting.run(**options), kill_before(number, counting.run_folder))
        if status == 0:
            break
        assert status == -signal.SIGKILL, (number, capfd.readouterr().err)
        # Without --from and --reuse, as the message of an interrupted run says; with them it must be as well.
        status = in_child(lambda number=number: counting.run(**(options if number % 2 else {})))
        assert status == 0, (number, capfd.readouterr().err)
        assert content(counting, "small") == whole, number
    assert number >= least, "so many places there are at least"


@pytest.mark.parametrize("case", ["a new run", "going on"])
def test_a_disk_that_is_full_from_any_change_on(case: str, counting: Any, capfd: pytest.CaptureFixture[str]) -> None:
    prepare, options, least = COMMANDS[case]
    whole = content(counting, "whole")
    for number in range(1, MANY):
        shutil.rmtree(counting.run_folder, ignore_errors=True)
        prepare(counting)
        status = in_child(lambda: counting.run(**options), full_from(number, counting.run_folder))
        if status == 0:
            break
        assert status == 4, (number, capfd.readouterr().err)
        kept = checkpoints_of(counting.run_folder)
        assert in_child(counting.run) == 0, (number, capfd.readouterr().err)
        assert content(counting, "small") == whole, (number, kept)
    assert number >= least, "so many places there are at least"


def test_reuse_leaves_out_what_a_kill_behind_the_end_of_a_step_left(counting: Any) -> None:
    step = counting.folder / "runs/whole/r1/01-a"
    for left_over in ("checkpoints/1-00000002", ".01-a.old.tmp", "model/.config.tmp"):
        (step / left_over).mkdir(parents=True)
    counting.run(reuse=[counting.folder / "runs/whole"])
    taken = counting.run_folder / "r1/01-a"
    names = ["findings.json", "manifest.json", "metrics.jsonl", "model", "model.safetensors"]
    assert sorted(p.name for p in taken.rglob("*")) == names


def checkpoints_of(run: Path) -> list[str]:
    """Those of unfinished steps, for the message of a failure."""
    return sorted(os.path.relpath(p, run) for p in run.glob("r*/*/checkpoints/*"))
