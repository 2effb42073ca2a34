"""A plugin of tiny steps, and runs of recipes made of them; nothing is trained."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from alignkit import Component, Fault, Paused, UserError, hookimpl
from alignkit.components import Config
from alignkit.engine import run_recipe
from alignkit.manager import PluginManager, PluginStatus
from alignkit.protocols import StepOutput
from alignkit.recipe import ComponentSpec, Operational, SlotOf, load_recipe


class WriteConfig(Config):
    """Options of the step `write`."""

    text: str = Field("hello", description="what the file says")
    file: str | None = Field(None, description="an input file")
    growing: Annotated[str | None, Operational()] = Field(None, description="a file that may grow")
    source: str | None = Field(None, description="@id of a step whose text comes first")
    inner: Annotated[ComponentSpec | None, SlotOf("advantage")] = Field(None, description="a component")
    makes_policy: bool = Field(False, description="the result counts as a policy")
    rows: int = Field(0, description="rows of metrics")
    fail: str | None = Field(None, description="error to raise after writing half")
    fail_at_row: int = Field(0, description="raise after this row of metrics")


ERRORS: dict[str, Callable[[], BaseException]] = {
    "bug": lambda: ZeroDivisionError("a bug"),
    "user": lambda: UserError("bad text", where="file:1"),
    "paused": lambda: Paused("2 tasks still need judgements", hint="put files there"),
    "fault": lambda: Fault("loss is not finite"),
    "memory": lambda: MemoryError(),
    "torch memory": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    "disk": lambda: OSError(28, "No space left on device", "weights"),
    "interrupt": lambda: KeyboardInterrupt(),
}


class Write:
    """Writes `text.txt`; counts its runs; may fail half-way while `switch` says so."""

    def __init__(self, config: WriteConfig, plugin: "StepPlugin") -> None:
        self.config = config
        self.plugin = plugin

    def run(self, context: Any) -> StepOutput:
        """Satisfies `Step`."""
        config = self.config
        key = f"{context.step_id}/{context.round}"
        self.plugin.runs.append(key)
        before = ""
        if config.source:
            before = (context.resolve(config.source) / "text.txt").read_text() + ">"
        half = context.folder / "half.txt"
        self.plugin.found_half[key] = half.is_file()
        half.write_text("half")
        for i in range(1, config.rows + 1):
            context.log(i, {"loss": 1 / i})
            if i == config.fail_at_row and self.plugin.failing:
                raise ZeroDivisionError("in the middle")
        if config.fail and self.plugin.failing:
            raise ERRORS[config.fail]()
        (context.folder / "text.txt").write_text(f"{before}{config.text}{context.round}")
        outputs = {"": ".", "text": "text.txt"}
        if config.makes_policy:
            outputs["policy"] = "."
        figures = {"round": context.round, "text": config.text}
        return StepOutput(outputs, {"last": context.step_id, "steps": {context.step_id: figures}})


@dataclass
class StepPlugin:
    """Registers the steps `write` and `keeping` and the policy `stub`; remembers what happened."""

    failing: bool = True
    runs: list[str] = field(default_factory=list)
    found_half: dict[str, bool] = field(default_factory=dict)

    @hookimpl
    def alignkit_policies(self) -> list[Component]:
        """A policy that is never built."""
        return [Component("stub", lambda config, context: None, PolicyConfig)]

    @hookimpl
    def alignkit_steps(self) -> list[Component]:
        """`keeping` finds what an unfinished try left behind."""

        def build(config: WriteConfig, context: Any) -> Write:
            return Write(config, self)

        def check(config: WriteConfig, manager: PluginManager) -> None:
            if config.file is not None and not Path(config.file).is_file():
                raise UserError("no such file", where=config.file)

        keeping = Component("keeping", build, WriteConfig, check=check, tags=frozenset({"keeps_partial"}))
        return [Component("write", build, WriteConfig, check=check), keeping]


class PolicyConfig(Config):
    """Options of the stub."""

    size: int = 1
    corpus: str | None = None


@dataclass
class Bench:
    """Runs recipes in a temporary folder with the test plugin and the project's own trackers."""

    folder: Path
    plugin: StepPlugin
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def run_folder(self) -> Path:
        """The folder of the run `small`."""
        return self.folder / "runs" / "small"

    def manager(self) -> PluginManager:
        """Built-ins, the test plugin, and whatever is in `extra`."""
        manager = PluginManager()
        manager.load()
        manager.register(self.plugin, PluginStatus("steps", "test-dist", "1.0"))
        for name, plugin in self.extra.items():
            manager.register(plugin, PluginStatus(name, f"{name}-dist", "1.0"))
        assert [p.problem for p in manager.plugins if p.problem] == []
        return manager

    def recipe(self, *steps: str, top: str = "") -> Path:
        """Write a recipe of these steps (the inside of a YAML mapping each)."""
        path = self.folder / "small.yaml"
        lines = ["name: small", f"output: {self.folder / 'runs'}", "policy: stub", *top.splitlines(), "steps:"]
        path.write_text("\n".join([*lines, *(f"  - {{{s}}}" for s in steps)]) + "\n")
        return path

    def run(self, *overrides: str, **options: Any) -> dict[str, Any]:
        """Run the recipe that was written last."""
        loaded = load_recipe(str(self.folder / "small.yaml"), overrides, self.manager())
        return run_recipe(loaded, **options)

    def runs(self) -> list[str]:
        """Steps done since the last call, as id/round."""
        done, self.plugin.runs = self.plugin.runs, []
        return done

    def text(self, step: str) -> str:
        """The text that a step wrote; `step` is `r1/01-a`."""
        return (self.run_folder / step / "text.txt").read_text()

    def files(self) -> dict[str, bytes]:
        """Every file below the temporary folder, with its content."""
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}

    def json(self, name: str) -> Any:
        """A parsed JSON file of the run."""
        return json.loads((self.run_folder / name).read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty folder to run recipes in."""
    return Bench(tmp_path, StepPlugin())
