"""Options of the reward source `weighted`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignkit.components import Config
from alignkit.errors import did_you_mean
from alignkit.recipe import ComponentSpec, SlotOf


class WeightedConfig(Config):
    """The weighted sum of other sources' scores.

    Sources, weights and normalisation are mappings side by side, as `monitor` is: so each source is a component like
    any other for checks, references and permissions.
    """

    sources: Annotated[dict[str, ComponentSpec], SlotOf("reward_source")] = Field(
        min_length=1, description="what is added up, each under a name of your own; logged as reward/NAME"
    )
    weights: dict[str, float] = Field(
        default_factory=dict, description="factor of a source's scores; 1 if left out; with 0 it is only logged"
    )
    normalise: dict[str, Literal["none", "batch"]] = Field(
        default_factory=dict,
        description="batch: a source's scores get mean 0 and deviation 1 over the completions scored together, so that "
        "a completion's reward changes with the batch it is in; none if left out",
    )

    @model_validator(mode="after")
    def _names_are_those_of_sources(self) -> Self:
        for option in ("weights", "normalise"):
            for name in getattr(self, option):
                if name not in self.sources:
                    close = did_you_mean(name, list(self.sources))
                    raise ValueError(
                        f"{option} has {name!r}, which is none of sources: {', '.join(self.sources)}{close}"
                    )
        if all(self.weights.get(name) == 0 for name in self.sources):
            raise ValueError("every weight is 0, so all completions would score the same")
        return self
