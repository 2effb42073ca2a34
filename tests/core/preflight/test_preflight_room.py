"""Memory and disk: estimates against what was measured, and against what there is."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignkit.preflight.disk import disk_findings
from alignkit.preflight.folder import ModelFacts
from alignkit.preflight.memory import (
    Part,
    Room,
    activations,
    cache,
    frozen,
    memory_findings,
    memory_room,
    peak,
    snapshot,
    trained,
)
from alignkit.recipe.model import CheckpointOptions
from helpers.preflight import Facts, codes, with_code

ROOT = Path(__file__).parents[3]
MEASURED = json.loads((ROOT / "benchmarks/results/memory.json").read_text())
FACTOR = 1.3
CPU = torch.device("cpu")


def llama(size: dict[str, int], encoder: Any = None) -> ModelFacts:
    """Facts of a Llama with tied embeddings, from its matrices written out."""
    h, f, layers, v = (size[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    matrices = [(h, h)] * 4 + [(f, h)] * 2 + [(h, f)]
    every = (*(matrices * layers), (v, h))
    parameters = sum(a * b for a, b in every) + (2 * layers + 1) * h
    return ModelFacts("x", encoder, SimpleNamespace(**size), frozenset(), parameters, 4 * parameters, every)


@pytest.mark.parametrize("row", MEASURED["rows"], ids=lambda r: f"{r['model']}-{r['stage']}-{r['setting']}")
def test_the_estimate_is_near_what_was_measured(row: dict[str, Any]) -> None:
    size = MEASURED["models"][row["model"]]
    model = llama(size)
    assert model.parameters == row["parameters"]
    rank = 16 if "lora" in row["setting"] else None
    assert model.trained(rank) == row["trainable"]
    kept = activations(model, size["rows"] * size["length"], checkpointed="checkpointing" in row["setting"])
    parts = [trained("policy", model, 4, rank)]
    if row["stage"] == "ppo":
        if rank is None:
            parts.append(frozen("reference", model, 4))
        if "shared" not in row["setting"]:
            parts.append(trained("critic", model))
            kept = Part(kept.name, 2 * kept.bytes, certain=False)
    estimate = peak([*parts, kept]) / 2**20
    assert row["peak_mib"] / FACTOR < estimate < row["peak_mib"] * FACTOR


def test_gradients_come_as_activations_go() -> None:
    policy = Part("policy", 16, gradients=4)
    assert peak([policy]) == 16
    assert peak([policy, Part("activations", 3, certain=False)]) == 16
    assert peak([policy, Part("activations", 10, certain=False), Part("sampling", 8, certain=False)]) == 22


def test_all_measured_rows_are_compared() -> None:
    assert len(MEASURED["rows"]) == 18


def test_facts_of_a_folder_are_those_of_the_loaded_model(model: Facts) -> None:
    from transformers import AutoModelForCausalLM

    facts = model()
    module = AutoModelForCausalLM.from_pretrained(facts.path)
    parameters = {id(p): p.numel() for p in module.parameters()}
    assert facts.parameters == sum(parameters.values())
    assert facts.bytes == 4 * facts.parameters
    assert (facts.max_positions, facts.vocabulary) == (128, module.get_input_embeddings().weight.shape[0])


def test_keys_and_values_are_counted_as_transformers_makes_them(model: Facts) -> None:
    from transformers import AutoModelForCausalLM

    facts = model()
    module = AutoModelForCausalLM.from_pretrained(facts.path)
    rows, length = 3, 10
    made = module(torch.zeros((rows, length), dtype=torch.long), use_cache=True).past_key_values
    held = sum(t.numel() * 4 for layer in made.layers for t in (layer.keys, layer.values))
    logits = 3 * 4 * facts.vocabulary * rows
    assert cache(facts, rows, length).bytes == held + logits


@pytest.mark.parametrize(
    ("free", "total", "code", "severity"),
    [(100, 200, "R064", "note"), (39, 200, "R060", "warning"), (10, 19, "R061", "error"), (10, 20, "R060", "warning")],
)
def test_what_is_needed_against_what_there_is(
    free: int, total: int, code: str, severity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(free * 10**9, total * 10**9, "cuda:0 (a GPU)")
    monkeypatch.setattr("alignkit.preflight.memory.memory_room", lambda device: room)
    parts = [Part("policy", 20 * 10**9), Part("activations", 20 * 10**9, certain=False)]
    (finding,) = memory_findings(parts, CPU)
    assert (finding.code, finding.severity) == (code, severity)
    assert "about 40.0 GB (policy 20.0 GB, activations 20.0 GB)" in finding.what


@pytest.mark.parametrize(
    ("device", "background", "rooms"),
    [
        ("cpu", None, ["cpu 40"]),
        ("cpu", True, ["cpu 46"]),
        ("cuda", None, ["cpu 6", "cuda 40"]),
        ("cuda", False, ["cuda 40"]),
    ],
)
def test_the_copy_for_a_checkpoint_is_counted_where_it_is(
    device: str, background: bool | None, rooms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.preflight.memory.memory_room", lambda d: Room(10**12, 10**12, d.type))
    copy = snapshot(2 * 10**9, CheckpointOptions(background=background), torch.device(device))
    found = memory_findings([Part("policy", 40 * 10**9)], torch.device(device), copy)
    said = [re.search(r"about ([\d.]+) GB.* free on (\w+)", finding.what) for finding in found]
    assert [f"{match[2]} {float(match[1]):g}" for match in said if match] == rooms


def test_the_memory_of_this_machine_is_known() -> None:
    room = memory_room(CPU)
    assert room is not None
    assert 10**8 < room.free <= room.total


def test_the_disk_is_asked_where_the_run_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return SimpleNamespace(free=10 * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    folder = tmp_path / "runs" / "not" / "there"
    # with keep 2 there are up to 3 checkpoints, each with weights and two moments
    assert codes(disk_findings(folder, 10**9, 10**9, keep=2)) == []
    assert codes(disk_findings(folder, 2 * 10**9, 10**9, keep=2)) == ["R062"]
    assert "2.0 GB for results and 9.0 GB" in with_code(disk_findings(folder, 2 * 10**9, 10**9, 2), "R062").what
    assert codes(disk_findings(folder, 11 * 10**9, 0, keep=2)) == ["R063"]
    assert set(asked) == {tmp_path}
