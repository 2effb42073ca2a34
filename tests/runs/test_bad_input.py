"""A user's mistakes: exit 2 with what, where and what to do, and nothing changed on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit.cli import main

RECIPE = """
name: mine
policy: {{name: causal_lm, {policy}}}
steps:
  - id: data
    step: data
    format: {format}
    files: {file}
  - id: reward
    step: train
    policy: "@latest"
    optimizer_stage: {stage}
    data: "@data"
"""
NEW = "init: {preset: nano}, tokenizer: {train_on: '@data'}"
PAIR = {"prompt": "Say", "chosen": "yes", "rejected": "no"}
Setup = Callable[[Path], dict[str, str]]


def rows(path: Path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def no_tokenizer(folder: Path) -> dict[str, str]:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"x")
    return {"policy": f"path: {model}"}


CASES: dict[str, tuple[Setup, list[str]]] = {
    "unknown key": (lambda d: {"stage": "{name: reward_model, learning_rate: 1}"}, ["recipe.yaml:12", "learning_rate"]),
    "unknown key, suggestion": (lambda d: {"stage": "{name: reward_model, epoch: 1}"}, ["did you mean 'epochs'"]),
    "missing file": (lambda d: {"file": str(d / "none.jsonl")}, ["none.jsonl", "no such"]),
    "bad JSON": (lambda d: {"file": rows(d / "x.jsonl", PAIR, "{oops")}, ["x.jsonl:2"]),
    "missing column": (
        lambda d: {"file": rows(d / "x.jsonl", PAIR, {"prompt": "a", "choosen": "b", "rejected": "c"})},
        ["x.jsonl:2", "chosen"],
    ),
    "empty side": (lambda d: {"file": rows(d / "x.jsonl", {**PAIR, "chosen": ""})}, ["x.jsonl:1", "empty"]),
    "equal pair": (lambda d: {"file": rows(d / "x.jsonl", PAIR, {**PAIR, "chosen": "no"})}, ["x.jsonl:2", "equal"]),
    "plugin not installed": (lambda d: {"stage": "{name: dpo_plus}"}, ["dpo_plus", "is installed", "pip"]),
    "model without tokenizer": (no_tokenizer, ["no tokenizer", "save_pretrained"]),
    "no such model folder": (lambda d: {"policy": "path: ./nowhere"}, ["nowhere", "no such model folder"]),
}


@pytest.mark.parametrize("case", CASES)
def test_exits_2_and_changes_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup, expected = CASES[case]
    outside = tmp_path / "inputs"
    outside.mkdir()
    good = rows(outside / "good.jsonl", PAIR, {**PAIR, "prompt": "Tell"})
    values = {"policy": NEW, "format": "preference", "file": good, "stage": "reward_model"} | setup(outside)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (outside / "recipe.yaml").write_text(RECIPE.format(**values))
    with pytest.raises(SystemExit) as stop:
        main(["run", str(outside / "recipe.yaml")])
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert "Traceback" not in message
    assert "->" in message or "did you mean" in message or "known:" in message, "says what to do"
    for part in expected:
        assert part in message, f"{part!r} is not in: {message}"
    assert list(work.iterdir()) == [], "nothing was written"


def test_check_says_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows(tmp_path / "x.jsonl", PAIR, {**PAIR, "chosen": "no"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(policy=NEW, format="preference", file=file, stage="reward_model"))
    with pytest.raises(SystemExit) as stop:
        main(["check", str(recipe), "--json"])
    assert stop.value.code == 2
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert "x.jsonl:2" in found["findings"][0]["where"] + found["findings"][0]["what"]
