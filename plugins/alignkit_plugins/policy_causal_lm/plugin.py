"""Registers the policy `causal_lm`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from alignkit import Component, hookimpl
from alignkit_plugins.policy_causal_lm.config import CausalLMConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.manager import PluginManager


def build(config: CausalLMConfig, context: "BuildContext") -> Any:
    """Load or make the model."""
    from alignkit_plugins.policy_causal_lm.policy import build_policy

    return build_policy(config, context)


def check(config: CausalLMConfig, manager: "PluginManager") -> None:
    """The folder must be a complete model."""
    if config.path is not None:
        from alignkit.modeling.folders import check_model_path

        check_model_path(config.path)


def code(config: CausalLMConfig) -> str | None:
    """A model that brings its own code is code."""
    return config.path if config.trust_remote_code else None


@hookimpl
def alignkit_policies() -> Iterable[Component]:
    """The built-in policy."""
    summary = "any transformers causal language model, by path, hub name or new from a config"
    return [Component(name="causal_lm", build=build, config=CausalLMConfig, check=check, code=code, summary=summary)]
