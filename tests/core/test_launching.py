"""Runs through a launcher: who starts what, with which arguments, and which exit status comes back."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alignkit import launching
from alignkit.cli import cli
from alignkit.errors import Fault, UserError
from alignkit.launching import TakenSignals, outcome
from alignkit.manager import PluginManager
from alignkit.recipe import load_recipe

LAUNCHER = """
import json
from pathlib import Path
from alignkit import Component, hookimpl
from alignkit.components import Config

class Options(Config):
    status: int = 0

class Noting:
    def __init__(self, config):
        self.config = config

    def launch(self, argv):
        Path("launched.json").write_text(json.dumps(list(argv)))
        return self.config.status

@hookimpl
def alignkit_launchers():
    return [Component("noting", lambda config, context: Noting(config), Options, "notes what it is to launch")]
"""
RECIPE = """
name: small
policy: {name: causal_lm, init: {preset: nano}, tokenizer: {train_on: "@corpus"}}
steps:
  - {id: corpus, step: data, format: {name: film_world}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a recipe and the launcher `noting`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "noting.py").write_text(LAUNCHER)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


def test_the_whole_command_goes_to_the_launcher_and_its_status_comes_back(folder: Path) -> None:
    given = ["run", "small.yaml", "launcher=noting", "launcher.status=3", "seed=5"]
    options = ["--plugins-dir", "plugins", "--from", "corpus", "--allow-code", "m", "--strict-plugins", "--verbose"]
    result = CliRunner().invoke(cli, [*given, *options])
    assert result.exit_code == 3, result.output
    launched: list[str] = json.loads((folder / "launched.json").read_text())
    assert launched[:5] == given
    assert sorted(launched[5:]) == sorted(options)
    assert not (folder / "runs").exists()


def test_a_wrong_recipe_is_refused_before_anything_is_launched(folder: Path) -> None:
    for wrong in ("corpus.fromat=x", "launcher.stats=1", "launcher=nothing"):
        result = CliRunner().invoke(
            cli, ["run", "small.yaml", "launcher=noting", wrong, "--plugins-dir", "plugins"], standalone_mode=False
        )
        assert result.exception is not None, wrong
    assert not (folder / "launched.json").exists()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_process_that_was_launched_launches_no_other(
    processes: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    loaded = load_recipe("small.yaml", ("launcher=noting",), plugin_folders=[folder / "plugins"])
    assert launching.launch(loaded, ["run"], frozenset()) is None


def test_without_a_launcher_the_process_runs_by_itself(folder: Path) -> None:
    loaded = load_recipe("small.yaml", ("launcher=noting", "launcher=null"), plugin_folders=[folder / "plugins"])
    assert loaded.recipe.launcher is None
    assert launching.launch(loaded, ["run"], frozenset()) is None


def test_options_of_a_launcher_without_its_name_say_what_is_missing(folder: Path) -> None:
    with pytest.raises(UserError, match="launcher: which one"):
        load_recipe("small.yaml", ("launcher.status=3",), plugin_folders=[folder / "plugins"])


def test_the_launcher_is_no_part_of_a_step_s_identity(folder: Path) -> None:
    from alignkit.engine.identity import step_identity

    def identity(*overrides: str) -> Any:
        loaded = load_recipe("small.yaml", overrides, plugin_folders=[folder / "plugins"])
        return step_identity(loaded.recipe, loaded.recipe.steps[0], 1, loaded.manager, {})

    assert identity("launcher=noting", "launcher.status=3") == identity()
    assert identity("seed=1") != identity()


def test_launchers_that_are_built_in() -> None:
    manager = PluginManager()
    manager.load()
    assert {"ray", "torchrun"} <= set(manager.names("launcher"))


KILL, TERM, SEGV = -signal.SIGKILL, -signal.SIGTERM, -signal.SIGSEGV


@pytest.mark.parametrize(
    ("statuses", "signalled", "status"),
    [
        ({0: 0, 1: 0}, None, 0),
        ({0: 3, 1: 3}, None, 3),
        ({0: 130, 1: 130}, signal.SIGINT, 130),
        ({0: 143, 1: 143}, None, 143),
        ({0: 2, 1: 143}, None, 2),  # the other one was told to go
        ({0: 143, 1: 4}, None, 4),
        ({0: 1, 1: 4}, None, 4),  # the connection to the one with the fault was lost
        ({0: KILL, 1: 1}, None, 1),  # it was stuck, and killed after a while
        ({0: 143, 1: 1}, None, 1),
        ({0: TERM, 1: TERM}, signal.SIGTERM, 143),  # before they could answer
        ({0: KILL, 1: 130}, signal.SIGINT, 130),
        ({0: 4, 1: KILL}, signal.SIGINT, 4),
        ({0: 7, 1: TERM}, None, 7),
    ],
)
def test_what_processes_come_to(statuses: dict[int, int], signalled: int | None, status: int) -> None:
    assert outcome(statuses, signalled) == status


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({0: 143, 1: KILL}, "process 1 of the run was killed by SIGKILL"),
        ({0: 1, 1: SEGV}, "process 1 of the run was killed by SIGSEGV"),
        ({0: KILL, 1: SEGV}, "process 1 of the run was killed by SIGSEGV"),
    ],
)
def test_a_killed_process_is_a_fault(statuses: dict[int, int], said: str) -> None:
    with pytest.raises(Fault) as info:
        outcome(statuses)
    assert said in str(info.value)


def test_signals_are_kept_and_a_second_one_sets_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with TakenSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may tell the launcher and all that it has started
        assert (signals.came, signals.last, signals.overdue) == ([signal.SIGTERM], signal.SIGTERM, False)
        monkeypatch.setattr("alignkit.interruption.ECHO", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.came == [signal.SIGTERM, signal.SIGINT]
        assert not signals.overdue
        late = time.monotonic() + launching.LAST + 1
        monkeypatch.setattr(time, "monotonic", lambda: late)
        assert signals.overdue
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_signals_stay_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with TakenSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.came == []
    finally:
        signal.signal(signal.SIGHUP, before)
