"""Device, kernels, precision and versions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.manager import PluginManager
from alignkit.manager.registered import PluginStatus
from alignkit.preflight import machine
from alignkit.preflight.machine import chosen, device_findings, version_findings
from alignkit.recipe import ComponentSpec, Recipe
from helpers.preflight import codes, with_code

CPU = torch.device("cpu")


def recipe(**options: Any) -> Recipe:
    """The shortest one."""
    steps = [{"id": "sft", "step": "train", "optimizer_stage": "sft", "data": "x.jsonl"}]
    return Recipe.model_validate({"name": "x", "policy": {"name": "causal_lm", "path": "m"}, "steps": steps, **options})


@pytest.fixture
def ops(manager: PluginManager) -> Any:
    """What a CPU uses."""
    return chosen(recipe(device="cpu"), manager)[1]


def test_device_and_kernels_are_always_said(manager: PluginManager) -> None:
    device, ops, found = chosen(recipe(device="cpu"), manager)
    assert device == CPU
    assert codes(found) == ["R070"]
    assert "eager for" in found[0].what
    assert "chunked for" in found[0].what
    assert ops.choice["linear_logprob"] == "chunked"


def test_what_cannot_run_is_an_error_and_the_rest_is_looked_at(manager: PluginManager) -> None:
    _, _, found = chosen(recipe(device="cuda:99", kernels="triton"), manager)
    assert codes(found) == ["R002", "R002", "R070"]


def test_a_gpu_that_is_not_used(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Fast GPU")
    finding = with_code(device_findings(recipe(device="cpu"), CPU, ops), "R071")
    assert "A Fast GPU; the recipe asks for cpu" in finding.what


def test_a_torch_without_cuda_beside_a_driver(ops: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(machine, "NVIDIA", tmp_path / "none")
    assert codes(device_findings(recipe(), CPU, ops)) == ["R070"]
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)
    assert "without CUDA" in with_code(device_findings(recipe(), CPU, ops), "R071").what


@pytest.mark.parametrize(("fast", "expected"), [(True, ["R070"]), (False, ["R072", "R070"])])
def test_bfloat16_without_instructions(
    fast: bool, expected: list[str], ops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "fast_bfloat16", lambda: fast)
    assert codes(device_findings(recipe(precision="bfloat16"), CPU, ops)) == expected
    assert codes(device_findings(recipe(), CPU, ops)) == ["R070"]


class TestVersions:
    """Of a run that was begun before."""

    def record(self, folder: Path, manager: PluginManager) -> dict[str, Any]:
        from alignkit.engine.environment import environment
        from alignkit.engine.plugin_record import plugin_record

        return {**plugin_record(recipe(), manager), "environment": environment()}

    def test_the_same_versions_are_nothing_to_say(self, manager: PluginManager, tmp_path: Path) -> None:
        assert codes(version_findings(tmp_path, recipe(), manager)) == []
        (tmp_path / "plugins.json").write_text(json.dumps(self.record(tmp_path, manager)))
        assert codes(version_findings(tmp_path, recipe(), manager)) == []

    def test_changed_plugins_and_packages_are_named(self, manager: PluginManager, tmp_path: Path) -> None:
        record = self.record(tmp_path, manager)
        record["components"]["policy:alignkit:causal_lm"] = "0.0.1"
        record["environment"]["packages"]["torch"] = "1.0"
        (tmp_path / "plugins.json").write_text(json.dumps(record))
        finding = with_code(version_findings(tmp_path, recipe(), manager), "R073")
        assert "policy:alignkit:causal_lm 0.0.1 -> " in finding.what
        assert "torch 1.0 -> " in finding.what

    def test_a_component_that_is_gone_is_said_elsewhere(self, manager: PluginManager, tmp_path: Path) -> None:
        (tmp_path / "plugins.json").write_text(json.dumps(self.record(tmp_path, manager)))
        other = recipe().model_copy(update={"policy": ComponentSpec(name="gone")})
        assert codes(version_findings(tmp_path, other, manager)) == []

    def test_a_record_that_cannot_be_read(self, manager: PluginManager, tmp_path: Path) -> None:
        (tmp_path / "plugins.json").write_text("{")
        assert codes(version_findings(tmp_path, recipe(), manager)) == ["R073"]

    def test_plugins_that_failed_are_named(self, tmp_path: Path) -> None:
        broken = PluginManager()
        broken.load()
        broken.plugins.append(PluginStatus("bad", "bad-dist", "1.0", problem="it fails"))
        assert "bad-dist 1.0 (bad)" in with_code(version_findings(tmp_path, recipe(), broken), "R074").what
