"""Registers the sampler `hf`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class HFSamplerConfig(Config):
    """Options of the `hf` sampler."""

    batch_size: int = Field(256, ge=1, description="completions sampled at once; changes memory and speed")


def build(config: HFSamplerConfig, context: "BuildContext") -> Any:
    """Make the sampler."""
    from alignkit_plugins.sampler_hf.sampler import HFSampler

    return HFSampler(config.batch_size)


@hookimpl
def alignkit_samplers() -> Iterable[Component]:
    """The built-in sampler."""
    summary = "samples in process with the transformers model and its key-value cache"
    return [Component(name="hf", build=build, config=HFSamplerConfig, summary=summary)]
