"""What an optimizer stage learns from, made by the loop's own path from given advantages."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.kl import KLTerm
from alignkit.loop.config import KLConfig, LoopConfig
from alignkit.loop.experience import ExperienceMaker
from alignkit.manager import PluginManager
from alignkit.ops import Ops, choose_ops
from alignkit.protocols import Critic, Experience, Needs, Policy


@cache
def eager_ops() -> Ops:
    """The reference implementations, on the CPU."""
    return choose_ops(PluginManager(), "eager", torch.device("cpu"))


class Given:
    """An estimator that returns these advantages (wider ones with zeros) and returns of 1."""

    needs = Needs()

    def __init__(self, advantages_BT: Tensor) -> None:
        self.advantages_BT = advantages_BT

    def __call__(
        self, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages as given; each position's return is 1."""
        extra = mask_BT.shape[1] - self.advantages_BT.shape[1]
        return torch.nn.functional.pad(self.advantages_BT, (0, extra)), mask_BT.float()


def random_advantages(rollout: Rollout, seed: int = 0) -> Tensor:
    """Standard normal on completion tokens, zero elsewhere, [B, T]."""
    mask_BT = rollout.mask_BT
    return torch.randn(mask_BT.shape, generator=torch.Generator().manual_seed(seed)) * mask_BT


def make_experience(
    policy: Policy,
    reference: Policy,
    critic: Critic | None,
    rollout: Rollout,
    advantages_BT: Tensor,
    kl_term: KLTerm | None = None,
    past_stop: bool = False,
) -> Experience:
    """Experience with these advantages; log-probs and values as the loop computes them, returns of 1."""
    placed: dict[str, Any] = {"coef": 0.0}
    if kl_term is not None:
        estimator, gradient = kl_term.estimator, kl_term.gradient
        placed = {"coef": kl_term.coef, "placement": "loss", "estimator": estimator, "gradient": gradient}
    position: Any = "after_stop" if past_stop else "last_token"
    config = LoopConfig(iterations=1, kl=KLConfig(**placed), score_position=position)
    make = ExperienceMaker(policy, reference, critic, Given(advantages_BT), config, eager_ops())
    experience, _ = make(rollout, torch.zeros(len(rollout)), placed["coef"])
    return experience


def through_files(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A stage's `state()` written as safetensors and JSON and read back. Raises where one of them cannot hold it."""
    folder.mkdir(exist_ok=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in state.items() if name not in tensors}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")
    return {**load_file(folder / "state.safetensors"), **json.loads((folder / "state.json").read_text("utf-8"))}
