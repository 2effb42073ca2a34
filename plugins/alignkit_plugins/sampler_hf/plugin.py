"""Registers the sampler `hf`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class HFSamplerConfig(Config):
    """Options of the `hf` sampler. They change memory and speed, not what is drawn."""

    batch_size: int = Field(256, ge=1, description="completions sampled at once, at most")
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of a batch at most, prompts and `max_length` together, which bounds the key-value cache; "
        "a single completion that is longer has a batch of its own",
    )
    decode: Literal["eager", "graph"] = Field(
        "eager",
        description="eager: storage grows with the completions; graph: all shapes are fixed and on a GPU each step is "
        "replayed from a CUDA graph, which pays for small models",
    )


def build(config: HFSamplerConfig, context: "BuildContext") -> Any:
    """Make the sampler."""
    from alignkit_plugins.sampler_hf.sampler import HFSampler

    return HFSampler(config.batch_size, config.batch_tokens, config.decode == "graph")


@hookimpl
def alignkit_samplers() -> Iterable[Component]:
    """The built-in sampler."""
    summary = "samples in process with the transformers model and its key-value cache"
    return [Component(name="hf", build=build, config=HFSamplerConfig, summary=summary)]
