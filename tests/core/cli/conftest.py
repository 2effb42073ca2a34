"""The command line in-process and as a process, with an installed test plugin whose step fails in many ways."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIG_DFL, SIGINT
from signal import signal as set_signal  # `alignkit` below replaces signal.signal

import pytest

from alignkit.cli import main

PLUGIN = '''
import os, time
import click
from alignkit import Component, Fault, Paused, UserError, hookimpl
from alignkit.components import Config, NoConfig
from alignkit.protocols import StepOutput

def broken_ledger(self):
    raise ZeroDivisionError("a bug")

class ActConfig(Config):
    end: str = "well"

class Act:
    def __init__(self, config):
        self.config = config

    def run(self, context):
        end = self.config.end
        if end == "user":
            raise UserError("bad text", where="data.jsonl:3", hint="mend it")
        if end == "paused":
            raise Paused("2 tasks still need judgements", hint="put files there")
        if end == "fault":
            raise Fault("loss is not finite", where="step act")
        if end == "plugin_bug":
            raise ZeroDivisionError("a plugin's bug")
        if end == "bug":  # in alignkit's own code, behind the step
            from alignkit.engine.ledger import Ledger

            Ledger.write_metrics = broken_ledger
        if end == "memory":
            raise MemoryError
        if end == "torch_memory":
            import torch
            raise torch.OutOfMemoryError("CUDA out of memory")
        if end == "cpu_memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error")
        if end == "other_runtime":
            raise RuntimeError("shape mismatch")
        if end == "disk":
            raise OSError(28, "No space left on device", "weights.safetensors")
        if end == "wait":
            (context.folder / "waiting").write_text("")
            for _ in range(600):
                time.sleep(0.05)
        return StepOutput({"": "."}, {"end": end})

@hookimpl
def alignkit_steps():
    keep = frozenset({"keeps_partial"})
    return [Component("act", lambda config, context: Act(config), ActConfig, tags=keep)]

@hookimpl
def alignkit_policies():
    return [Component("stub", lambda config, context: None)]

@click.command()
@click.pass_context
def hello(ctx):
    """Say hello."""
    click.echo("hello from a plugin")
    ctx.exit(7)

def broken(config, context):
    raise OSError("no licence")

@hookimpl
def alignkit_commands():
    return [
        Component("hello", lambda config, context: hello),
        Component("broken", broken),
        Component("run", lambda config, context: hello),
    ]
'''
RECIPE = "name: acts\npolicy: stub\nvars: {end: well}\nsteps:\n  - {id: act, step: act, end: $end}\n"


@dataclass
class Result:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def plugin_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path with the installed test plugin; the working folder holds `acts.yaml` alone."""
    site, work = tmp_path / "site", tmp_path / "work"
    info = site / "act_dist-1.0.dist-info"
    info.mkdir(parents=True)
    work.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: act-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[alignkit]\nact_plugin = act_plugin\n")
    (site / "act_plugin.py").write_text(PLUGIN)
    (work / "acts.yaml").write_text(RECIPE)
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("act_plugin", None)


@pytest.fixture
def alignkit(plugin_site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`alignkit("run", …)` in this process."""
    monkeypatch.setattr("alignkit.cli.signal.signal", lambda *_: None)

    def call(*arguments: str) -> Result:
        from alignkit.console import console

        console.cache_clear()
        status = 0
        try:
            main(list(arguments))
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 1
        out, err = capfd.readouterr()
        return Result(status, out, err)

    return call


@pytest.fixture
def process(plugin_site: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """`process("run", …)` starts the command in the working folder."""

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "alignkit.cli", *arguments],
            env={**os.environ, "PYTHONPATH": str(plugin_site)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A suite in a shell's background inherits an ignored SIGINT; the command's own way with it is tested here.
            preexec_fn=lambda: set_signal(SIGINT, SIG_DFL),
        )

    return start
