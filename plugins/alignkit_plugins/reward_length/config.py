"""Options of the reward sources `length` and `overlong`."""

from typing import Self

from pydantic import Field, model_validator

from alignkit.components import Config


class LengthConfig(Config):
    """-coef * max(0, tokens - target)."""

    coef: float = Field(gt=0, description="penalty per token")
    target: int = Field(0, ge=0, description="tokens that cost nothing; the stop token counts")


class OverlongConfig(Config):
    """DAPO's soft overlong punishment."""

    max_length: int = Field(
        ge=1, description="L_max: tokens at which the punishment reaches -1, as a rule sampling.max_length"
    )
    cache: int = Field(ge=1, description="L_cache: the last tokens before max_length, over which it grows from 0")

    @model_validator(mode="after")
    def _cache_fits(self) -> Self:
        if self.cache > self.max_length:
            raise ValueError(f"cache {self.cache} is longer than max_length {self.max_length}")
        return self
