"""benchmarks/compare: our side of the comparison, on a small model and without a peer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.pages import ROOT

SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
from cases import TASKS
from inputs import Inputs, Size, made_up, make_model
from run import measure_ours
folder = Path(sys.argv[1])
texts = made_up(200)
make_model(Size(1, 32, 2, 64, 512), texts, folder)
inputs = Inputs(folder, texts)
task = replace(TASKS["ppo"], batch_size=4, steps=2)
found = {"ppo": measure_ours(task, inputs, "float32")["steps"]}
rows, tokens = inputs.rows("sft", "demonstrations", 8, 4)
found["tokens"] = [tokens, [len(row["input_ids"]) for row in json.loads(rows.read_text())]]
(folder / "found.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_our_side_reports_steps_with_their_parts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    subprocess.run(command, cwd=ROOT / "benchmarks/compare", check=True, timeout=120)
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["ppo"]) == 2
    sampled = {"rollout", "score", "reference log-probs", "values", "advantages"}
    for step in found["ppo"]:
        assert sampled | {"update", "forward", "loss", "backward", "optimizer"} <= step["parts"].keys()
        assert 0 < sum(step["parts"].values()) <= step["seconds"]
    per_batch, per_row = found["tokens"]
    assert per_batch == [sum(per_row[:4]), sum(per_row[4:])]
