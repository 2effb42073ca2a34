"""Options that change how work is done and not its result do not make a finished step stale."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from alignkit import Component, UserError, hookimpl
from alignkit.components import Config
from alignkit.protocols import StepOutput
from alignkit.recipe import ComponentSpec, Operational, SlotOf


class Inner(Config):
    workers: Annotated[int, Operational()] = Field(1, description="how many at a time")
    log: Annotated[str | None, Operational()] = Field(None, description="a file that grows")
    taste: str = Field("sweet", description="what comes out")
    inside: Annotated[ComponentSpec | None, SlotOf("reward_source")] = Field(None, description="a component")


class Outer(Inner):
    many: Annotated[tuple[ComponentSpec, ...], SlotOf("reward_source")] = Field((), description="components")


class Counts:
    """Registers a step and a source with such options; counts the step's runs."""

    def __init__(self) -> None:
        self.done = 0

    @hookimpl
    def alignkit_reward_sources(self) -> list[Component]:
        return [Component("nest", lambda config, context: None, Inner)]

    @hookimpl
    def alignkit_steps(self) -> list[Component]:
        def build(config: Outer, context: Any) -> "Counts":
            return self

        return [Component("count", build, Outer)]

    def run(self, context: Any) -> StepOutput:
        self.done += 1
        return StepOutput({"": "."}, {})


STEP = "id: a, step: count, workers: 1, inside: {name: nest, taste: sour, inside: {name: nest, workers: 2}}"


def test_operational_options_are_no_part_of_the_identity(bench: Any) -> None:
    plugin = Counts()
    bench.extra = {"counts": plugin}
    bench.recipe(STEP)
    bench.run()
    bench.run("a.workers=9", "a.inside.workers=9", "a.inside.inside.workers=9")
    assert plugin.done == 1
    kept = bench.json("r1/01-a/manifest.json")["identity"]["options"]
    assert kept == {"step": "count", "inside": {"name": "nest", "taste": "sour", "inside": "nest"}}


@pytest.mark.parametrize("change", ["taste", "inside.taste", "inside.inside"])
def test_other_options_are(bench: Any, change: str) -> None:
    bench.extra = {"counts": Counts()}
    bench.recipe(STEP)
    bench.run()
    with pytest.raises(UserError, match=rf"a\.{change} changed from"):
        bench.run(f"a.{change}{'' if change.endswith('taste') else '.taste'}=bitter")


def test_a_file_that_an_operational_option_names_may_change(bench: Any) -> None:
    plugin, file = Counts(), bench.folder / "log.txt"
    bench.extra = {"counts": plugin}
    bench.recipe(f"id: a, step: count, log: {file}, many: [{{name: nest, log: {file}}}, nest]")
    for text in ("one", "two"):
        Path(file).write_text(text)
        bench.run()
    assert plugin.done == 1
    identity = bench.json("r1/01-a/manifest.json")["identity"]
    assert identity["files"] == {}
    assert identity["options"]["many"] == ["nest", "nest"]
