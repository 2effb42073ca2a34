"""docs/scaling.md: its commands run as they stand there, with the result and the output that it says."""

import json
import math
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignkit.cli import cli
from helpers.commands import alignkit
from helpers.pages import DOCS, blocks

PAGE = DOCS / "scaling.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the page's files."""
    titled = [block for block in blocks(PAGE) if block.title]
    assert [block.title for block in titled] == ["small.yaml", "llama-8b.json"]
    for block in titled:
        (tmp_path / block.title).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(word: str) -> list[list[str]]:
    """The page's `alignkit WORD …` that are meant to be run."""
    lines = [line for b in blocks(PAGE) if b.language == "sh" and b.run for line in b.text.splitlines()]
    split = [shlex.split(line) for line in lines]
    assert all(words[0] == "alignkit" for words in split)
    return [words[1:] for words in split if words[1] == word]


def test_plans_are_as_shown(folder: Path) -> None:
    shown = [block.text for block in blocks(PAGE) if block.language == "text"]
    plans = commands("plan")
    assert len(shown) == len(plans) == 2
    for arguments, text in zip(plans, shown, strict=True):
        assert CliRunner().invoke(cli, arguments).stdout == text
        assert ": fits\n" in text
    smaller = [word.replace("h200x8", "h100x8") for word in plans[0]]
    (step,) = json.loads(CliRunner().invoke(cli, [*smaller, "--json"]).stdout)["steps"]
    assert step["fits"] is False


def test_the_agreement_is_what_was_measured() -> None:
    measured = json.loads((DOCS.parent / "benchmarks/results/plan.json").read_text())["rows"]
    off = {kind: max(abs(row["ratio"] - 1) for row in measured if row["what"].startswith(kind)) for kind in
           ("FLOP", "bytes", "peak")}  # fmt: skip
    assert len(measured) == 26
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert off["bytes"] == 0
    assert f"torch's counter within {math.ceil(1000 * off['FLOP']) / 10} %" in text
    assert f"peaks of memory within {math.ceil(100 * off['peak'])} %" in text


@pytest.mark.slow
@pytest.mark.concurrent
def test_ray_and_torchrun_give_the_same_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two workers of the tests share two cores
    runs = commands("run")
    assert [next(word for word in words if word.startswith("launcher=")) for words in runs] == [
        "launcher=torchrun", "launcher=ray",
    ]  # fmt: skip
    for arguments in runs:
        done = alignkit(*arguments, cwd=folder, timeout=300)
        assert done.stdout.count("done: ") + done.stderr.count("done: ") == 1  # one process speaks
    for model in ("r1/02-base/model", "r1/03-aligned/model"):
        one, other = (folder / "runs" / run / model / "model.safetensors" for run in ("small", "small-ray"))
        assert one.read_bytes() == other.read_bytes()
    assert not (folder / ".alignkit-ray").exists()
