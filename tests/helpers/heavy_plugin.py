"""A plugin that imports torch beside its registration."""

import torch

from alignkit import Component, hookimpl
from alignkit.components import NoConfig
from alignkit.protocols import Needs


class Zero:
    """An advantage of zero."""

    needs = Needs()

    def __call__(self, rewards_BT: torch.Tensor, values_BT: object, mask_BT: object, group_B: object) -> object:
        return torch.zeros_like(rewards_BT), rewards_BT


@hookimpl
def alignkit_advantages() -> list[Component]:
    return [Component("broken", lambda config, context: Zero(), NoConfig, "nothing")]
