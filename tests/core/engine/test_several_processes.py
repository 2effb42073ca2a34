"""Runs as two processes (gloo) against the same run as one: what is learned, kept, said and given back."""

import json
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from helpers import ranks

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]

RECIPE = """\
name: whole
checkpoints: {steps: $every}
policy:
  name: causal_lm
  init: {preset: nano, max_position_embeddings: 256}
  tokenizer: {train_on: "@corpus", vocab_size: 300}
vars: {labels: simulated, every: 1000}
steps:
  - {id: corpus, step: data, format: {name: film_world, rows: 60, prompts: 16, test_prompts: 6}}
  - {id: base, step: train, data: "@corpus", optimizer_stage: {name: pretrain, batch_size: 8, block_length: 64}}
  - {id: labels, step: collect, policy: "@base", prompts: "@corpus", samples_per_prompt: 3,
     sampling: {max_length: 12}, reward_source: $labels}
  - {id: sft, step: train, policy: "@base", data: "@corpus",
     optimizer_stage: {name: sft, batch_size: 7, log_every: 1, micro_batch_tokens: 150}}
  - {id: reward, step: train, policy: "@base", data: "@labels",
     optimizer_stage: {name: reward_model, batch_size: 3, epochs: 1, log_every: 1}}
  - {id: dpo, step: train, policy: "@base", data: "@labels",
     optimizer_stage: {name: dpo, batch_size: 3, epochs: 1, log_every: 1}}
  - {id: grpo, step: align, policy: "@base", prompts: "@corpus", iterations: 2, batch_size: 12, samples_per_prompt: 3,
     reward_source: {name: length, coef: 0.1}, advantage: grpo, sampling: {max_length: 12, top_k: 20},
     optimizer_stage: {name: ppo}, kl: {placement: loss}}
  - {id: ppo, step: align, policy: "@base", prompts: "@corpus", iterations: 2, batch_size: 10, eval_every: 1,
     reward_source: {name: reward_model, model: "@reward"}, monitor: {taste: film_taste}, advantage: gae,
     sampling: {max_length: 12}, optimizer_stage: {name: ppo, minibatches: 2}, keep_every: 1}
"""
BEFORE = 3  # steps that each of these runs takes over: two models would be judged differently


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and its run `whole`, as one process."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "recipe.yaml").write_text(RECIPE)
    assert ranks.run(folder, 1, "recipe.yaml") == [0], ranks.said(folder)
    return folder


def begun(place: Path, name: str, steps: int, of: str = "whole") -> Path:
    """Another run that has the first steps of `whole`; its folder."""
    folder = place / "runs" / name
    shutil.copytree(place / "runs" / of, folder)
    for path in sorted(folder.glob("r1/*"))[steps:]:
        shutil.rmtree(path)
    return folder


def everything(place: Path) -> str:
    """What the first two ranks have said."""
    return ranks.said(place) + ranks.said(place, 1)


def metrics(run: Path, step: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{**row, "step": 0} for row in rows if row["step"] == step]


def weights(run: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = load_file(run / "r1" / part / "model.safetensors")
    return found


def assert_alike(one: Path, two: Path, step: str, rel: float) -> None:
    """Every figure of every row, and the model's weights, up to float rounding."""
    rows, others = metrics(one, step), metrics(two, step)
    assert len(rows) == len(others) > 1
    for row, other in zip(rows, others, strict=True):
        assert other == pytest.approx(row, rel=rel, abs=2e-5, nan_ok=True), step


@pytest.fixture(scope="module")
def two(place: Path) -> Path:
    """The same run done by two processes."""
    folder = begun(place, "two", BEFORE)
    assert ranks.run(place, 2, "recipe.yaml", "name=two") == [0, 0], everything(place)
    return folder


def test_two_processes_learn_what_one_learns(place: Path, two: Path) -> None:
    one = place / "runs/whole"
    for step in ("sft", "reward", "dpo"):
        assert_alike(one, two, step, 1e-5)
    for step in ("ppo", "grpo"):
        assert_alike(one, two, step, 1e-4)
    assert ranks.said(place, 1) == ""
    for part in ("05-reward/model", "08-ppo/model", "08-ppo/critic", "08-ppo/models/00000001"):
        whole, divided = weights(one, part), weights(two, part)
        assert whole.keys() == divided.keys()
        for name, tensor in whole.items():
            assert divided[name].shape == tensor.shape
            assert (divided[name] - tensor).abs().max() < 1e-4, (part, name)


def test_a_run_told_to_end_goes_on_as_two_one_or_three(place: Path, two: Path) -> None:
    """A signal to one process ends both at the same point; the state goes onto any number of them."""
    run = begun(place, "told", 7, of="two")
    processes = ranks.start(place, 2, ["run", "recipe.yaml", "name=told", "every=1"], SLOW)
    wait_for(run / "r1/08-ppo/checkpoints/1-00000001")
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in processes] == [143, 143], everything(place)
    assert "terminated; run the same command again" in everything(place)
    parts = list(run.glob("r1/08-ppo/checkpoints/1-*/shard-0000[12]-*.safetensors"))
    assert len(parts) >= 2
    runs = {f"again{count}": count for count in (2, 1, 3)}
    for name in runs:
        begun(place, name, 8, of="told")
    started = {
        name: ranks.start(place, n, ["run", "recipe.yaml", f"name={name}"], name=name) for name, n in runs.items()
    }
    for name, count in runs.items():
        again, said = place / "runs" / name, partial(ranks.said, place, name=name)
        assert [process.wait(240) for process in started[name]] == [0] * count, said()
        assert "going on from the checkpoint" in said()
        assert ("written with processes 2" in said()) == (count != 2)
        assert_alike(place / "runs/whole", again, "ppo", 1e-4)
        if count == 2:  # bit for bit as if it had never stopped
            assert metrics(again, "ppo") == metrics(two, "ppo")
            for part in ("08-ppo/model", "08-ppo/critic"):
                mine = (again / "r1" / part / "model.safetensors").read_bytes()
                assert mine == (two / "r1" / part / "model.safetensors").read_bytes()


SLOW = """
import time
from alignkit.training.optimizer import Optimizer
step = Optimizer.step
Optimizer.step = lambda self: (time.sleep(0.15), step(self))[1]
"""
# A run in which rank 1 comes to an error of ours while the others wait for it, and takes its time to say so.
FAILS = """
import os, sys, time
import torch
import alignkit.engine, alignkit.cli
from alignkit.processes import summed
def run_recipe(*_, **__):
    summed(torch.zeros(1))
    if os.environ["RANK"] == "1":
        raise AssertionError("only here")
    summed(torch.zeros(1))
alignkit.engine.run_recipe = run_recipe
show = alignkit.cli.show_bug
alignkit.cli.show_bug = lambda *given: (time.sleep(4), show(*given))
"""
# A run whose steps are done by the first process alone, while the other comes to an error.
ALONE = """
import os, time
from alignkit.engine.run import _Run
begin, step = _Run._begin, _Run._step
def alone(self, spec, number, round):
    time.sleep(1)
    print("step", number, flush=True)
def fails(self, spec, number, round):
    raise AssertionError("only here")
_Run._begin = alone
if os.environ["RANK"] == "1":
    _Run._step = fails
"""
# A thread that makes and drops tensors to the last aborts a process whose interpreter is taken down.
BUSY = """
import threading
import torch
import alignkit.engine
def run_recipe(*_, **__):
    print("run")
alignkit.engine.run_recipe = run_recipe
def work():
    while True:
        torch.ones(100) + 1
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
"""


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.05)


def test_an_error_of_one_process_ends_all_when_it_has_been_said(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    processes = ranks.start(tmp_path, 2, ["run", "recipe.yaml"], FAILS)
    # A launcher would now end those that are left.
    while all(process.poll() is None for process in processes):
        time.sleep(0.02)
    assert [process.poll() for process in processes] == [None, 1]
    said = ranks.said(tmp_path, 1)
    assert said.startswith("[rank1]: Traceback")
    assert "AssertionError: only here" in said
    assert [process.wait(60) for process in processes] == [1, 1]
    assert ranks.said(tmp_path) == ""


def test_the_first_process_does_not_go_on_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert ranks.run(tmp_path, 2, "recipe.yaml", code=ALONE) == [1, 1], everything(tmp_path)
    assert "only here" in ranks.said(tmp_path, 1)
    assert "step 2" in ranks.said(tmp_path)
    assert "step 6" not in ranks.said(tmp_path)


def test_threads_of_torch_do_not_spoil_the_exit_status(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert ranks.run(tmp_path, 2, "recipe.yaml", code=BUSY) == [0, 0], everything(tmp_path)
    assert "terminate called" not in everything(tmp_path)


def test_a_run_that_waits_for_people_pauses_as_one(place: Path) -> None:
    begun(place, "people", 2)
    assert ranks.run(place, 2, "recipe.yaml", "name=people", "labels=human") == [3, 3]
    assert "paused:" in ranks.said(place)
    assert ranks.said(place, 1) == ""
