"""Words of models, files and servers on a terminal: they move no cursor, set no title and reorder nothing."""

import json
import logging
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from alignkit import UserError, cli
from alignkit.console import console, set_up_logging
from alignkit.terminal import printable, say, say_json
from alignkit_plugins.command_feedback.command import command as feedback
from alignkit_plugins.command_sample import sampling
from alignkit_plugins.command_sample.command import command as sample

TITLE, COLOUR, CLIPBOARD, BACK, C1 = (
    "\x1b]0;owned\x07",
    "\x1b[31m\x1b[2J",
    "\x1b]52;c;cm0gLXJm\x07",
    "\r\x08\x08",
    "\x9b31m",
)
BIDI = "\u202e\u2066\u200f\u2028"
HOSTILE = {
    "title": TITLE,
    "colour": COLOUR,
    "clipboard": CLIPBOARD,
    "back": BACK,
    "c1": C1,
    "bidi": BIDI,
    "nul": "\0\x7f",
}


def steers(text: str) -> list[str]:
    """Characters that a terminal would act upon."""
    return sorted({c for c in text if (not c.isprintable() and c not in "\n\t ") or c in BIDI})


@pytest.fixture
def _terminal_logging() -> Any:
    logger = logging.getLogger("alignkit")
    before = logger.handlers, logger.level, logger.propagate
    console.cache_clear()
    yield
    logger.handlers, logger.level, logger.propagate = before
    console.cache_clear()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_steers_is_shown_as_its_escape(name: str) -> None:
    text = HOSTILE[name]
    found = printable(f"before {text} after\n\tgrüße 你好 🙂")
    assert steers(found) == []
    assert found.startswith("before \\")
    assert found.endswith(" after\n\tgrüße 你好 🙂")


@pytest.mark.parametrize("name", HOSTILE)
def test_error_messages(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError(f"the completion was {HOSTILE[name]}", where=HOSTILE[name], hint=HOSTILE[name])

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(SystemExit):
        cli.main([])
    said = capsys.readouterr().err
    assert "the completion was" in said
    assert steers(said) == []


@pytest.mark.usefixtures("_terminal_logging")
@pytest.mark.parametrize("name", HOSTILE)
def test_log_lines(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    logging.getLogger("alignkit").warning("a row was %s", HOSTILE[name])
    logging.getLogger("alignkit").info("[link=http://x]a row[/link] [red]")
    said = capsys.readouterr().err
    assert "a row was" in said
    assert "[red]" in said
    assert steers(said) == []


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("as_json", [False, True])
def test_samples(name: str, as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"p{HOSTILE[name]}", f"c{HOSTILE[name]}", False), ("p", f"c{HOSTILE[name]}", True)]
    monkeypatch.setattr(sampling, "sample_model", lambda *_: iter(rows))
    done = CliRunner().invoke(sample, ["m", "--prompt", "x", *(["--json"] if as_json else [])], color=False)
    assert done.exception is None
    assert steers(done.output) == []
    if as_json:  # faithful all the same
        assert [json.loads(line)["completion"] for line in done.output.splitlines()] == [c for _, c, _ in rows]


@pytest.mark.parametrize("name", ["title", "colour", "c1", "bidi"])
def test_figures_of_feedback(name: str, tmp_path: Path) -> None:
    who = f"ann{HOSTILE[name]}"
    candidate = {
        "prompt_id": "p",
        "prompt": "p",
        "policy_revision": "r",
        "sampling": {},
        "seed": 0,
        "prompt_ids": [1],
        "completion_ids": [2],
        "finish_reason": "stop",
    }
    candidates = [{**candidate, "id": i, "completion": i} for i in ("x", "y")]
    gold = {"type": "pairwise", "a": "x", "b": "y", "p_a": 1.0}
    (tmp_path / "tasks.jsonl").write_text(
        json.dumps({"id": "t", "prompt": "p", "candidates": candidates, "gold": gold}) + "\n"
    )
    judgement = {"id": "j", "task_id": "t", "annotator": {"id": who, "kind": "human"}, "payload": gold}
    (tmp_path / "judgements.jsonl").write_text(json.dumps(judgement) + "\n")
    for options in ([], ["--json"]):
        done = CliRunner().invoke(feedback, ["stats", str(tmp_path), *options])
        assert done.exception is None, done.output
        assert steers(done.output) == []
        assert "ann" in done.output


def test_own_styles_stay(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def shown() -> None:
        say("red", fg="red")
        say_json({"a": "\u202e"})

    done = CliRunner().invoke(shown, color=True)
    assert "\x1b[31mred\x1b[0m" in done.output
    assert json.loads(done.output.partition("\n")[2]) == {"a": "\u202e"}


@pytest.mark.parametrize("name", ["title", "c1", "bidi"])
@pytest.mark.parametrize("as_json", [False, True])
def test_findings_of_check(name: str, as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignkit.commands.check import command as check

    def fail(*_: Any, **__: Any) -> Any:
        raise UserError(f"the row is {HOSTILE[name]} https://me:hunter2@host", where=HOSTILE[name])

    monkeypatch.setattr("alignkit.recipe.load.load_recipe", fail)
    done = CliRunner().invoke(check, ["r.yaml", *(["--json"] if as_json else [])], color=False)
    assert "the row is" in done.output
    assert steers(done.output) == []
    assert "hunter2" not in done.output
