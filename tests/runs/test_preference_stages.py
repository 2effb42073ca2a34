"""A whole run: data in both forms, a small policy, then dpo, orpo and kto in the place of reward model and PPO."""

import json
from pathlib import Path

from helpers.commands import alignkit
from helpers.preferences import likes_warm

RECIPE = """
name: direct
policy:
  name: causal_lm
  init: {preset: nano, max_position_embeddings: 64}
  tokenizer: {train_on: "@pairs", vocab_size: 300}
steps:
  - {id: pairs, step: data, files: pairs.jsonl, format: {name: preference, also_demonstrations: true}, heldout: 0.2}
  - {id: labels, step: data, files: labels.jsonl, format: labelled, heldout: 0.2}
  - id: sft
    step: train
    optimizer_stage: {name: sft, lr: 1e-3, epochs: 2, batch_size: 8}
    data: "@pairs"
  - id: dpo
    step: train
    policy: "@sft"
    optimizer_stage: {name: dpo, lr: 1e-3, batch_size: 8, epochs: 3}
    data: "@pairs"
  - id: orpo
    step: train
    policy: "@sft"
    optimizer_stage: {name: orpo, lr: 1e-3, batch_size: 8, epochs: 3}
    data: "@pairs"
  - id: kto
    step: train
    policy: "@latest"
    optimizer_stage: {name: kto, lr: 1e-3, batch_size: 8, epochs: 3}
    data: "@labels"
"""


def test_a_run_with_each_stage(tmp_path: Path) -> None:
    pairs = likes_warm(80, 0)
    with (tmp_path / "pairs.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}) + "\n" for p in pairs
        )
    with (tmp_path / "labels.jsonl").open("w") as file:
        for n, p in enumerate(pairs):
            row = {"prompt": p.prompt, "completion": p.chosen if n % 2 else p.rejected, "label": bool(n % 2)}
            file.write(json.dumps(row) + "\n")
    (tmp_path / "direct.yaml").write_text(RECIPE)
    alignkit("run", "direct.yaml", cwd=tmp_path)
    run = tmp_path / "runs/direct"
    summary = json.loads((run / "summary.json").read_text())
    for stage in ("dpo", "orpo", "kto"):
        assert summary[stage]["accuracy"] > 0.8, stage
        assert summary[stage]["dropped_too_long"] == 0
    assert summary["dpo"]["accuracy_before"] == summary["kto"]["accuracy_before"] == 0.5
    assert "Accuracy of the policy" in (run / "report.html").read_text()
    out = alignkit(
        "sample", str(run / "r1/04-dpo/model"), "--prompt", "the film", "--json", "max_length=8", cwd=tmp_path
    )
    assert json.loads(out.stdout)["prompt"] == "the film"
