"""Conformance suites: what a component of each kind has to do, as checks that a plugin's own tests inherit.

    from alignkit.testing import AdvantageContract

    class TestMeanBaseline(AdvantageContract):
        component = "mean_baseline"

pytest then runs every check of the kind on the component. Needs pytest (the extra `testing`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignkit.testing.advantage import AdvantageContract
    from alignkit.testing.contract import ComponentContract
    from alignkit.testing.data_format import DataFormatContract
    from alignkit.testing.data_stage import DataStageContract
    from alignkit.testing.judging import AnnotatesContract
    from alignkit.testing.kernel import KernelContract
    from alignkit.testing.policy import PolicyContract
    from alignkit.testing.rollout_stage import RolloutStageContract
    from alignkit.testing.sampler import SamplerContract
    from alignkit.testing.scoring import ScoresContract

_MODULES = {
    "AdvantageContract": "advantage",
    "AnnotatesContract": "judging",
    "ComponentContract": "contract",
    "DataFormatContract": "data_format",
    "DataStageContract": "data_stage",
    "KernelContract": "kernel",
    "PolicyContract": "policy",
    "RolloutStageContract": "rollout_stage",
    "SamplerContract": "sampler",
    "ScoresContract": "scoring",
}

__all__ = [
    "AdvantageContract",
    "AnnotatesContract",
    "ComponentContract",
    "DataFormatContract",
    "DataStageContract",
    "KernelContract",
    "PolicyContract",
    "RolloutStageContract",
    "SamplerContract",
    "ScoresContract",
]


def __getattr__(name: str) -> Any:
    # Late, because pytest imports this package in every environment that has alignkit, and the suites import torch.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"alignkit.testing.{_MODULES[name]}"), name)
