"""A run that is looked at gives, bit for bit, what it gives without."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from alignkit.engine import run_recipe
from alignkit.recipe import load_recipe

RECIPE = """
name: run
policy:
  name: causal_lm
  init: {preset: nano, max_position_embeddings: 128}
  tokenizer: {train_on: "@corpus", vocab_size: 400}
steps:
  - {id: corpus, step: data, format: {name: film_world, rows: 200, prompts: 40, test_prompts: 10}}
  - {id: rows, step: data, format: {name: prompt_completion}, files: rows.jsonl, heldout: 0.2}
  - {id: base, step: train, optimizer_stage: {name: pretrain, batch_size: 16}, data: "@corpus"}
  - {id: sft, step: train, policy: "@base", optimizer_stage: {name: sft, batch_size: 16}, data: "@rows"}
  - {id: labels, step: collect, policy: "@sft", prompts: "@corpus", limit: 12, reward_source: simulated,
     sampling: {max_length: 12}}
  - {id: reward, step: train, policy: "@sft", optimizer_stage: {name: reward_model, batch_size: 8}, data: "@labels"}
  - {id: aligned, step: align, policy: "@sft", reward_source: {name: reward_model, model: "@reward"}, iterations: 2,
     prompts: "@corpus", sampling: {max_length: 12}, batch_size: 8}
"""
KEPT = ("*.safetensors", "*.jsonl")


def results(folder: Path) -> dict[str, str]:
    """Hash of every file of weights and rows."""
    files = [path for pattern in KEPT for path in folder.rglob(pattern)]
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
def test_weights_metrics_and_records_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f'{{"prompt": "the film {n}", "completion": " was number {n}"}}' for n in range(60)]
    Path("rows.jsonl").write_text("\n".join(lines))
    Path("recipe.yaml").write_text(RECIPE)

    def run(output: str) -> dict[str, str]:
        run_recipe(load_recipe("recipe.yaml", [f"output={output}"]))
        return results(tmp_path / output)

    looked_at = run("looked_at")
    assert len(list((tmp_path / "looked_at").rglob("findings.json"))) == 7

    def not_at_all(*_: Any, **__: Any) -> list[Any]:
        return []

    monkeypatch.setattr("alignkit.engine.run.before_run", not_at_all)
    monkeypatch.setattr("alignkit.engine.run.before_step", not_at_all)
    alone = run("alone")
    assert not list((tmp_path / "alone").rglob("findings.json"))
    assert looked_at == alone
    assert len(alone) >= 15
