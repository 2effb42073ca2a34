"""A real run, with a real policy, killed again and again: slow, because every start imports torch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.interrupted import comparison

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]

RECIPE = """\
name: killed
checkpoints: {seconds: 0.1}
policy:
  name: causal_lm
  init: {preset: nano, max_position_embeddings: 256}
  tokenizer: {train_on: "@corpus", vocab_size: 300}
steps:
  - {id: corpus, step: data, format: {name: film_world, rows: 120, prompts: 20, test_prompts: 8}}
  - {id: base, step: train, optimizer_stage: {name: pretrain, batch_size: 8, block_length: 64}, data: "@corpus"}
  - {id: sft, step: train, policy: "@base", optimizer_stage: {name: sft, batch_size: 16, epochs: 2}, data: "@corpus"}
  - {id: more, step: train, policy: "@sft", optimizer_stage: {name: sft, batch_size: 16, epochs: 2}, data: "@corpus"}
"""
KILLS = 10


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """`alignkit run` as a process of its own."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "alignkit.cli", "run", "killed.yaml"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def finished(run: Path) -> dict[str, bytes]:
    """Manifests of finished steps."""
    found = {}
    for path in sorted(run.glob("r*/*/manifest.json")):
        content = path.read_bytes()
        if json.loads(content)["status"] == "finished":
            found[path.parent.name] = content
    return found


def test_a_killed_run_ends_like_one_that_was_never_killed(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("whole", "killed")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "killed.yaml").write_text(RECIPE)
    clock = time.perf_counter()
    assert start(folders["whole"]).wait(300) == 0, (folders["whole"] / "log.txt").read_text()
    seconds = time.perf_counter() - clock
    generator = random.Random(1)
    run = folders["killed"] / "runs/killed"
    seen: dict[str, bytes] = {}
    for _ in range(KILLS):
        process = start(folders["killed"])
        time.sleep(generator.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        now = finished(run)
        assert {step: now.get(step) for step in seen} == seen  # nothing that was finished was touched
        seen = now
    log = folders["killed"] / "log.txt"
    assert start(folders["killed"]).wait(300) == 0, log.read_text()
    final = finished(run)
    assert {step: final[step] for step in seen} == seen
    assert list(final) == ["01-corpus", "02-base", "03-sft", "04-more"]
    contents = [comparison().content(folder / "runs/killed") for folder in folders.values()]
    assert comparison().differences(*contents) == []
    assert len(contents[0]) > 25
    assert "Traceback" not in log.read_text()
