"""Registers the reward source `function`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class FunctionConfig(Config):
    """A Python function as reward. It must be allowed on the command line: --allow-code MODULE:FUNCTION."""

    path: str = Field(
        description="package.module:function; called as f(prompts, completions, **options) with lists of texts",
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of every call")


def build(config: FunctionConfig, context: "BuildContext") -> Any:
    """Import the function if it is allowed."""
    from alignkit_plugins.reward_function.source import load_function

    return load_function(config.path, config.options, context.allow_code)


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """A function of the user's own."""
    summary = "scores completions with a Python function (needs --allow-code)"
    return [
        Component(name="function", build=build, config=FunctionConfig, summary=summary, code=lambda config: config.path)
    ]
