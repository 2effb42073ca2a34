"""One row that is not finite, in every stage that learns from records: named, saved, left out on demand."""

import copy
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from alignkit.data.store import RecordFile, write_records
from alignkit.errors import Fault
from alignkit.protocols import FitTask
from alignkit.records import Demonstration, LabelledCompletion, PreferencePair, Record, Text
from alignkit.testing.context import metrics_of
from alignkit.training.nonfinite import FILE
from alignkit_plugins.optim_dpo import plugin as dpo
from alignkit_plugins.optim_kto import plugin as kto
from alignkit_plugins.optim_orpo import plugin as orpo
from alignkit_plugins.optim_pretrain import plugin as pretrain
from alignkit_plugins.optim_reward_model import plugin as reward_model
from alignkit_plugins.optim_sft import plugin as sft

BAD = " §"
WORDS = ["film", "story", "score", "ending", "acting", "thriller", "warm", "long"]


def demonstration(n: int, text: str) -> Record:
    return Demonstration(prompt=f"the {n}", completion=text)


def pair(n: int, text: str) -> Record:
    return PreferencePair(prompt=f"the {n}", chosen=text, rejected=" is dull")


def label(n: int, text: str) -> Record:
    return LabelledCompletion(prompt=f"the {n}", completion=text, label=n % 2 == 0)


class Case(NamedTuple):
    """A stage with the records it reads."""

    plugin: Any
    record: Any
    options: dict[str, Any]


CASES = {
    "sft": Case(sft, demonstration, {}),
    "pretrain": Case(pretrain, lambda n, text: Text(text=text), {"block_length": 8}),
    "dpo": Case(dpo, pair, {}),
    "orpo": Case(orpo, pair, {}),
    "kto": Case(kto, label, {"reads": "labels", "reference_point": "zero"}),
    "reward_model": Case(reward_model, pair, {}),
}


def fit(case: Case, policy: Any, context: Any, folder: Path, **options: Any) -> dict[str, Any]:
    """Eight records, of which the sixth has the bad text."""
    (component,) = case.plugin.alignkit_optimizer_stages()
    records = [case.record(n, BAD if n == 5 else f" {word}") for n, word in enumerate(WORDS)]
    write_records(folder / "data.jsonl", records)
    policy.save(folder / "start")
    config = component.config(**{"lr": 1e-3, "batch_size": 2, "log_every": 1, **case.options, **options})
    data = RecordFile(folder / "data.jsonl", type(records[0]))
    stage = component.build(config, context)
    found: dict[str, Any] = stage.fit(FitTask(lambda: policy, str(folder / "start"), data, None, context))
    return found


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch, llama: Any) -> Any:
    """Every model's states are NaN behind one token, which only the bad text has."""
    bad = llama.encoder.text(BAD)[-1]
    assert all(bad not in llama.encoder.text(f" {word}") for word in WORDS)
    plain = nn.Embedding.forward

    def forward(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        return plain(self, ids) * torch.where(ids == bad, math.nan, 1.0)[..., None]

    monkeypatch.setattr(nn.Embedding, "forward", forward)
    return llama


@pytest.mark.parametrize("name", CASES)
def test_stop_names_the_row_with_its_text(name: str, poisoned: Any, context: Any, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"loss nan.* at step \d: 1 of \d rows?, first row \d") as caught:
        fit(CASES[name], poisoned, context, tmp_path)
    assert caught.value.where == "step one"
    (row,) = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert "§" in row["text"]
    assert "§" in str(caught.value)
    assert row["loss"] == "nan"
    assert row["tokens"]


@pytest.mark.parametrize("name", CASES)
def test_skip_leaves_its_batch_out_and_counts_it(name: str, poisoned: Any, context: Any, tmp_path: Path) -> None:
    summary = fit(CASES[name], poisoned, context, tmp_path, on_nonfinite="skip")
    assert context.counts == {"steps_left_out": 1}
    logged = [row for row in metrics_of(context) if "skipped" in row]
    assert sum(row["skipped"] for row in logged) == 1
    assert all(math.isfinite(row["loss"]) for row in logged if "loss" in row)
    assert len([row for row in logged if "loss" in row]) == len(logged) - 1
    if name == "sft":
        whole = sum(len(poisoned.encoder.text(f" {word}")) + 1 for word in WORDS)
        assert summary["tokens"] < whole + len(poisoned.encoder.text(BAD))
        assert summary["steps"] == 4


@pytest.mark.parametrize("name", ["sft", "reward_model"])
def test_without_a_bad_row_skip_changes_nothing(name: str, llama: Any, context: Any, tmp_path: Path) -> None:
    weights = []
    for policy in ("stop", "skip"):
        torch.manual_seed(0)
        fit(CASES[name], copy.deepcopy(llama), context, tmp_path, on_nonfinite=policy)
        weights.append(load_file(tmp_path / "model" / "model.safetensors"))
    assert not (tmp_path / FILE).exists()
    assert context.counts == {}
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
