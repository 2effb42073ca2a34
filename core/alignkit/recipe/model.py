"""The shape of a recipe. Options of components stay raw here; `recipe.check` validates them with their own model."""

import re
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from alignkit.components import Config, Kind
from alignkit.errors import UserError

LATEST = "latest"
NAME_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


@dataclass(frozen=True)
class SlotOf:
    """Marks a config field that holds a component: `Annotated[ComponentSpec, SlotOf("advantage")]`."""

    kind: Kind


@dataclass(frozen=True)
class Operational:
    """Marks a config field that changes how work is done and not its result: no part of the step's identity."""


@dataclass(frozen=True)
class LastRound:
    """Marks a config field that may refer to a later step: it means that step's result of the round before."""


class ComponentSpec(BaseModel):
    """A component by name with its options: `{name: ppo, lr: 1e-5}`; a bare string is short for `{name: …}`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    def with_options(self, **changes: Any) -> "ComponentSpec":
        """A copy with options changed; None removes one."""
        options = {k: v for k, v in {**self.options, **changes}.items() if v is not None}
        return ComponentSpec(name=self.name, **options)


class StepSpec(BaseModel):
    """One step: its id, the step component's name, whether it repeats each round, and that component's options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    id: str
    step: str
    each_round: bool = False

    @field_validator("id")
    @classmethod
    def _safe_id(cls, value: str) -> str:
        # `@latest` is the newest policy, and `policy.path=…` on the command line means the recipe's policy.
        if value in {LATEST, *Recipe.model_fields}:
            raise ValueError("this word has a meaning of its own in references or overrides; choose another id")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", value):
            raise ValueError("an id begins with a letter and has letters, digits, _ and - only")
        return value

    @property
    def options(self) -> dict[str, Any]:
        """The step component's options."""
        return dict(self.model_extra or {})

    @property
    def component(self) -> ComponentSpec:
        """The step component with its options. Raises UserError for `name`, the one that a step cannot have."""
        if "name" in self.options:
            raise UserError("unknown key name: a step has an id", where=f"step {self.id}")
        return ComponentSpec(name=self.step, **self.options)


class PluginOptions(Config):
    """Which plugins this recipe brings and leaves out."""

    disable: tuple[str, ...] = Field((), description="distribution or plugin names that are not loaded")
    files: tuple[str, ...] = Field(
        (), description="Python files with plugins, relative to the recipe; each needs --allow-code FILE"
    )
    strict: bool = Field(False, description="any plugin that fails to load is an error")


class CheckpointOptions(Config):
    """When the state of an unfinished step is saved. None of it changes a result."""

    seconds: float | None = Field(
        60.0, ge=0, description="at least so long between two, and 20 times what one takes to write; null: not by time"
    )
    steps: int | None = Field(None, ge=1, description="also each time a loop has done so many more steps or iterations")
    keep: int = Field(2, ge=2, description="newest ones that are kept: if one is damaged, the one before it is used")
    background: bool | None = Field(
        None,
        description="written from a copy of the state in the machine's memory while the step goes on; null: if the "
        "state is on a GPU",
    )


class Recipe(Config):
    """A whole run."""

    name: str = Field(description="name of the run; its folder is OUTPUT/NAME")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random choice in the run")
    rounds: int = Field(1, ge=1, description="how often the steps marked each_round are done")
    output: str = Field("runs", description="folder that holds the run's folder")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    kernels: str = Field(
        "auto", description="auto (the best that runs on the device), eager or the name of a kernel component"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of matrix products in the models (autocast); weights, heads, losses and optimizers stay float32",
    )
    padding_free: bool = Field(
        True,
        description="run models on the real tokens of a batch alone, where their architecture allows it; changes speed "
        "and memory only",
    )
    vars: dict[str, Any] = Field(default_factory=dict, description="values that steps refer to as $name")
    checkpoints: CheckpointOptions = Field(
        CheckpointOptions(), description="when the state of an unfinished step is saved"
    )
    launcher: ComponentSpec | None = Field(
        None, description="what starts the run as several processes; null: this process alone. It changes no result"
    )
    plugins: PluginOptions = Field(PluginOptions(), description="plugins that the recipe brings and leaves out")
    trackers: tuple[ComponentSpec, ...] = Field(
        (), description="receivers of metrics; left out: those of the installed ones that are meant for every run"
    )
    policy: ComponentSpec = Field(description="the policy that steps start from")
    steps: tuple[StepSpec, ...] = Field(min_length=1, description="what is done, in this order")

    @field_validator("launcher", mode="before")
    @classmethod
    def _launcher_has_a_name(cls, value: Any) -> Any:
        # `launcher.processes=2` on the command line looks complete.
        if isinstance(value, dict) and "name" not in value:
            raise ValueError("which one? launcher=NAME beside its options; `alignkit plugins` lists them")
        return value

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not NAME_PATTERN.fullmatch(value):
            raise ValueError("a name has letters, digits, dot, _ and - only and begins with a letter or digit")
        return value

    @model_validator(mode="after")
    def _unique_ids(self) -> Self:
        ids = [s.id for s in self.steps]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"step id {twice[0]!r} is used twice")
        return self
