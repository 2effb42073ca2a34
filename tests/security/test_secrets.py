"""Keys and passwords stand in no message, log, traceback or record."""

import json
import logging
from pathlib import Path

import pytest

from alignkit import UserError
from alignkit.cli import main
from alignkit.console import console, set_up_logging
from alignkit.files import write_json
from alignkit.recipe import load_recipe
from alignkit.redact import MASK, hide, redact, redacted
from alignkit.terminal import show_bug
from helpers.commands import alignkit

SECRETS = {
    "password in an address": ("https://me:hunter2@host/v1", "hunter2"),
    "password with @": ("ftp://me:p@ss@host", "p@ss"),
    "token as user": ("https://t0ken@host/x", "t0ken"),
    "query": ("https://host/data.jsonl?part=1&access_token=abc&x=2", "abc"),
    "signed address": ("https://host/f?X-Amz-Signature=0f0f0f", "0f0f0f"),
    "header": ("Authorization: Bearer abcdefgh", "abcdefgh"),
    "header in a dict": ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
    "bearer": ("sent bearer abcdefghijklmnop1", "abcdefghijklmnop1"),
    "assignment": ("HF_TOKEN=whatever-it-is", "whatever-it-is"),
    "openai": ("judge.api_key_env=sk-proj-abcdef0123456789abcd", "abcdef0123456789"),
    "hugging face": ("hf_abcdefghijklmnopqrstuvwxyz", "abcdefghijklm"),
    "github": ("ghp_abcdefghijklmnopqrstuvwx", "abcdefghijklm"),
    "amazon": ("AKIAABCDEFGHIJKLMNOP", "ABCDEFGHIJ"),
    "signed token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl", "eyJzdWIi"),
    "private key": ("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIB\n-----END RSA PRIVATE KEY-----", "MIIEpAIB"),
}
HARMLESS = (
    "http://localhost:8000/v1", "me@host.org", "owner/sk-learn-something-very-long", "?sigma=3&monkey=4",
    "api_key_env: OPENAI_API_KEY",
    "a bearer of bad news", "tokenizer: byte level", "runs/x/r1/02-risk-1234567890123456", "the secret: two",
)  # fmt: skip
RECIPE = """
name: mine
policy: {{name: causal_lm, path: ./none}}
steps:
  - {{id: a, step: data, format: prompts, files: {file}}}
"""


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.redact._hidden", set())


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_masked_once_and_for_all(name: str) -> None:
    text, secret = SECRETS[name]
    found = redact(f"before {text} after")
    assert secret not in found
    assert MASK in found
    assert found.startswith("before ")
    assert redact(found) == found


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_values_of_the_environment_and_those_that_were_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_KEY", "form-of-its-own-77")
    monkeypatch.setenv("SHORT_TOKEN", "quickstart")  # an ordinary word
    monkeypatch.setenv("SSH_KEY_PATH", "/home/me/key-0123456789")
    hide("told")
    text = "form-of-its-own-77 quickstart /home/me/key-0123456789 told"
    assert redact(text) == f"{MASK} quickstart /home/me/key-0123456789 {MASK}"
    assert redacted({"form-of-its-own-77": [("told", 1)]}) == {MASK: [[MASK, 1]]}


@pytest.mark.parametrize(
    "piece", ["://", "sk-", "eyJ", "?a-", "A_", "authorization:", "-----BEGIN ", "a", "@", "bearer "]
)
def test_long_texts_take_no_time(piece: str) -> None:
    redact(piece * 200_000)  # with a pattern of quadratic time this would take an hour


def test_errors_are_masked_where_they_are_made() -> None:
    error = UserError("no https://me:hunter2@host", where="https://me:hunter2@host", hint="HF_TOKEN=hunter2222")
    assert "hunter2" not in f"{error} {error.what} {error.where} {error.hint} {error!r}"


def test_records_and_logs_are_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "x.json", {"a": ["https://me:hunter2@host"]})
    assert "hunter2" not in (tmp_path / "x.json").read_text()
    logger = logging.getLogger("alignkit")
    before = logger.handlers, logger.level, logger.propagate
    console.cache_clear()
    try:
        set_up_logging()
        try:
            raise ValueError("no answer from https://me:hunter2@host")
        except ValueError:
            logger.exception("asked %s", "https://me:hunter2@host")
    finally:
        logger.handlers, logger.level, logger.propagate = before
        console.cache_clear()
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert "hunter2" not in said


def test_tracebacks_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("at https://me:hunter2@host")
    show_bug(RuntimeError, error, None)
    said = capsys.readouterr().err
    assert f"RuntimeError: at https://{MASK}@host" in said


@pytest.mark.slow
def test_the_process_shows_no_secret_of_a_bug(tmp_path: Path) -> None:
    (tmp_path / "bug.py").write_text(
        "import click\nfrom alignkit import Component, hookimpl\n"
        "@click.command('bug')\ndef bug():\n    raise ZeroDivisionError('https://me:hunter2@host \\x1b[31m')\n"
        "@hookimpl\ndef alignkit_commands():\n    return [Component('bug', lambda c, x: bug)]\n"
    )
    import os

    os.environ["ALIGNKIT_PLUGINS_DIR"] = str(tmp_path)
    try:
        done = alignkit("bug", cwd=tmp_path, status=1)
    finally:
        del os.environ["ALIGNKIT_PLUGINS_DIR"]
    assert "ZeroDivisionError" in done.stderr
    assert "hunter2" not in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("name", SECRETS)
def test_a_recipe_with_a_secret_is_refused_without_showing_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, secret = SECRETS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.format(file=json.dumps(text)))
    with pytest.raises(SystemExit) as stop:
        main(["run", "r.yaml"])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert "steps.0.files holds what looks like a key" in said.err
    assert "r.yaml:5" in said.err
    assert secret not in said.err + said.out
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


def test_a_key_on_the_command_line_is_refused_without_showing_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.format(file="x.jsonl"))
    for override in (
        "a.files=sk-0123456789abcdefghijk",
        "policy.path=https://me:sk-0123456789abcdefghijk@h",
        "a.split={k: hf_0123456789abcdefghijkl}",
    ):
        with pytest.raises(UserError) as caught:
            load_recipe(str(tmp_path / "r.yaml"), [override])
        assert "0123456789" not in str(caught.value)
