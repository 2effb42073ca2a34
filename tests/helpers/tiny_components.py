"""The tiny policy as a component, sound or changed on purpose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from alignkit import Component
from alignkit.components import Config
from alignkit.testing.tiny import TinyPolicy, tiny_policy


class TinyConfig(Config):
    """Options of the tiny policy."""

    path: Path | None = Field(None, description="a saved policy; default: a new one")


def tiny_component(
    kind: type[TinyPolicy] = TinyPolicy, change: Callable[[Any], Any] | None = None, **options: Any
) -> Component:
    """A component that builds a tiny policy of the class `kind`, after `change`."""

    def build(config: TinyConfig, context: Any) -> TinyPolicy:
        policy = tiny_policy(context.seed, **options) if config.path is None else TinyPolicy.load(config.path)
        policy.__class__ = kind
        if change is not None:
            change(policy)
        return policy

    return Component(name="tiny", build=build, config=TinyConfig, summary="a random model of two layers")
