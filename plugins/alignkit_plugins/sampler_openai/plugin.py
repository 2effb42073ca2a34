"""Registers the sampler `openai`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit.servers.access import api_key
from alignkit_plugins.sampler_openai.config import OpenAISamplerConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.manager import PluginManager


def build(config: OpenAISamplerConfig, context: "BuildContext") -> Any:
    """Make the sampler; the server is not asked yet."""
    from alignkit_plugins.sampler_openai.sampler import OpenAISampler

    return OpenAISampler(config)


def check(config: OpenAISamplerConfig, manager: "PluginManager") -> None:
    """The key's variable must be set."""
    api_key(config.api_key_env)


@hookimpl
def alignkit_samplers() -> Iterable[Component]:
    """A server's completions."""
    summary = "completions of a server that speaks OpenAI's protocol, as texts: for collect and evaluate"
    return [Component("openai", build, OpenAISamplerConfig, summary, check=check)]
