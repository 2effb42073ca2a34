"""The shipped quickstart as it is: the figures that the README claims, on a seed that nobody chose settings by."""

import json
from pathlib import Path

import pytest

from helpers.commands import alignkit

pytestmark = pytest.mark.slow


def test_quickstart_aligns_the_policy(tmp_path: Path) -> None:
    alignkit("run", "quickstart", "seed=11", cwd=tmp_path, timeout=1500)
    run = tmp_path / "runs/quickstart"
    summary = json.loads((run / "summary.json").read_text())
    reward = summary["reward_model"]
    assert reward["accuracy"] >= reward["accuracy_longest_baseline"] + 0.05
    assert summary["policy"]["win_rate"]["n"] >= 200
    assert summary["policy"]["win_rate"]["low"] > 0.55
    assert summary["ppo"]["true_reward_end"] > summary["ppo"]["true_reward_start"]
    samples = [json.loads(line)["after"] for line in next(run.glob("r1/*-report/samples.jsonl")).open()]
    assert len(samples) == 40
    assert len(set(samples)) >= 36, "not one sentence repeated"
    assert summary["policy"]["after"]["distinct_2"] > 0.8 * summary["policy"]["before"]["distinct_2"]
