"""Running the command as people do, in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from alignkit_plugins.command_feedback.command import command

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """`run("stats", place)`; errors that are not the user's come out, and so do those that are, with their text."""

    def call(*args: Any) -> Result:
        return CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False)

    return call


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a JSONL file."""

    def write(*rows: Any, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write
