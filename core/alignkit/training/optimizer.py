"""AdamW with warm-up, schedule and gradient clipping."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from alignkit.errors import Fault
from alignkit.training.config import OptimizerConfig


class Optimizer:
    """One optimizer over some parameters, for a known number of steps."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimizerConfig, total_steps: int) -> None:
        self.config = config
        self.parameters = [p for p in parameters if p.requires_grad]
        matrices = [p for p in self.parameters if p.ndim >= 2]
        vectors = [p for p in self.parameters if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps
        )
        self.total_steps = total_steps
        self.taken = 0

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return self.config.lr * rate_factor(self.taken, self.total_steps, self.config)

    def step(self) -> float:
        """Clip, update, clear gradients; returns the norm before clipping. Raises Fault if it is not finite."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise Fault(
                f"the gradient norm is {norm}",
                hint="lower the learning rate, check the data for extreme rows, or use float32",
            )
        for group in self._adam.param_groups:
            group["lr"] = self.lr
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.taken += 1
        return norm

    def skip(self, steps: int) -> None:
        """Let the schedule go on as if so many steps had been taken."""
        self.taken += steps


def rate_factor(step: int, total: int, config: OptimizerConfig) -> float:
    """Factor on the peak rate for step `step` (from 0) of `total`."""
    warm = math.ceil(config.warmup * total)
    if step < warm:
        return (step + 1) / warm
    progress = min(1.0, (step - warm) / max(1, total - warm))
    if config.schedule == "linear":
        return 1 - progress
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
