"""What a plugin registers: a frozen description of a component and the function that builds it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from alignkit.manager import PluginManager

# A component says which api it was made for. Those from OLDEST_API on still work, with a warning.
API_VERSION = 1
OLDEST_API = 1

Kind = Literal[
    "policy",
    "reward_source",
    "advantage",
    "optimizer_stage",
    "step",
    "sampler",
    "data_format",
    "kernel",
    "tracker",
    "launcher",
    "command",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Names that recipes give a meaning of their own, so no component can have them.
RECIPE_WORDS: dict[Kind, tuple[str, ...]] = {"kernel": ("auto", "eager")}


class Config(BaseModel):
    """Base of every component's options: frozen, and an unknown key is an error."""

    # defer_build: most commands load the options of every plugin and validate those of a few or none.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )


class NoConfig(Config):
    """For components without options."""


@dataclass(frozen=True)
class Component:
    """One thing a recipe can name.

    `build(config, context)` returns an object that satisfies the Protocol of the component's kind
    (`alignkit.protocols`); the context is a `BuildContext`, for steps and trackers a `StepContext`. It is called only
    when a recipe names the component, so heavy imports belong inside it.
    """

    name: str
    build: Callable[[Any, Any], Any]
    config: type[BaseModel] = NoConfig
    summary: str = ""
    api: int = API_VERSION
    # Called as check(config, manager) before a run starts, after the checks of the components inside; raises UserError
    # for what can be known by then (a missing file, a folder that is no model). It writes nothing.
    check: Callable[[Any, "PluginManager"], None] | None = None
    # Called with the config; names the code it would run (`module:function`, a model folder with code), which must be
    # allowed with --allow-code before a run starts. None: no code.
    code: Callable[[Any], str | None] | None = None
    # `keeps_partial` (steps): the folder of an unfinished step is left as it is for the next try.
    # `default` (trackers): taken by a recipe that says nothing about trackers.
    tags: frozenset[str] = field(default_factory=frozenset)
    # What to use instead; a recipe that names the component gets an AlignkitDeprecationWarning that says so.
    deprecated: str = ""
