"""For every check that all kinds share a mistake that it has to notice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from alignkit import Component
from alignkit.components import Config, NoConfig
from alignkit.protocols import Needs
from alignkit.testing import AdvantageContract, ComponentContract
from helpers import heavy_plugin
from helpers.planted import Fault, checks_of, planted


class Estimator:
    """Has what the Protocol asks for."""

    needs = Needs()

    def __call__(self, rewards_BT: Any, values_BT: Any, mask_BT: Any, group_B: Any) -> Any:
        return rewards_BT, rewards_BT


class ThreeArguments(Estimator):
    def __call__(self, rewards_BT: Any, values_BT: Any, mask_BT: Any) -> Any:  # type: ignore[override]
        return rewards_BT, rewards_BT


class NoNeeds:
    __call__ = Estimator.__call__


class Silent(Config):
    scale: float = 1.0


class Inner(Config):
    eps: float = 1e-8


class SilentInside(Config):
    inner: Inner = Field(Inner(), description="more options")
    several: list[Inner] = Field([], description="more of them")


class NoSchema(Config):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    function: Callable[[float], float] | None = Field(None, description="a function")


class Loose(BaseModel):
    model_config = ConfigDict(frozen=True)
    scale: float = Field(1.0, description="factor")


class Unfrozen(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scale: float = Field(1.0, description="factor")


class AnyScale(Config):
    scale: float = Field(1.0, description="factor, above 0")


class OneWay(Config):
    """Written as a word that it does not read."""

    scale: float = Field(1.0, description="factor")

    @field_serializer("scale")
    def _as_word(self, value: float) -> str:
        return "one"


class Lossy(Config):
    """Written rounded."""

    scale: float = Field(1.0, description="factor")

    @field_serializer("scale")
    def _rounded(self, value: float) -> float:
        return round(value, 1)


class Form(Config):
    form: Literal["a", "b"] = Field("a", description="form")


SHARED = Estimator()


def component(config: type[BaseModel] = NoConfig, summary: str = "broken on purpose", **more: Any) -> Component:
    return Component("broken", more.pop("build", lambda c, _: Estimator()), config, summary, **more)


def writes(config: Any, manager: Any) -> None:
    Path("checked.txt").write_text("yes", encoding="utf-8")


FAULTS = (
    Fault("test_is_registered_under_its_name", component(), {"component": "brocken"}),
    Fault("test_has_a_one_line_summary", component(summary=" "), name="empty"),
    Fault("test_has_a_one_line_summary", component(summary="one\ntwo"), name="two_lines"),
    Fault("test_has_a_one_line_summary", component(summary="long " * 40), name="long"),
    Fault("test_every_option_has_a_description", component(Silent)),
    Fault("test_every_option_has_a_description", component(SilentInside), name="inside"),
    Fault("test_options_have_a_json_schema", component(NoSchema)),
    Fault("test_unknown_option_is_refused", component(Loose)),
    Fault("test_bad_options_are_refused", component(AnyScale), {"bad_options": ({"scale": -1},)}),
    Fault("test_bad_options_are_refused", component(Form), {"bad_options": ({"form": "c"}, {"form": "a"})}, "second"),
    Fault("test_checking_options_writes_nothing", component(check=writes)),
    Fault("test_options_are_frozen", component(Unfrozen)),
    Fault("test_options_survive_json", component(OneWay)),
    Fault("test_options_survive_json", component(Lossy), {"options": {"scale": 0.25}}, "rounded"),
    Fault("test_registration_imports_nothing_heavy", component(), {"plugin": heavy_plugin}),
    Fault("test_build_satisfies_the_protocol", component(build=lambda c, _: NoNeeds()), name="needs"),
    Fault("test_build_satisfies_the_protocol", component(build=lambda c, _: ThreeArguments()), name="arguments"),
    Fault("test_build_satisfies_the_protocol", component(build=lambda c, _: None), name="nothing"),
    Fault("test_each_build_is_an_object_of_its_own", component(build=lambda c, _: SHARED)),
)
globals().update(planted(AdvantageContract, FAULTS))


def test_every_check_has_a_fault() -> None:
    assert checks_of(ComponentContract, own=False) == {f.check for f in FAULTS}
