"""AdamW with warm-up, schedule and gradient clipping."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.checkpoints.parts import fill
from alignkit.checkpoints.states import copied
from alignkit.errors import Fault, UserError
from alignkit.modeling.sharding import is_part, local, total_norm
from alignkit.training.config import OptimizerConfig


class Optimizer:
    """One optimizer over some parameters, for a known number of steps."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimizerConfig, total_steps: int) -> None:
        self.config = config
        self.parameters = [p for p in parameters if p.requires_grad]
        # Parts of weights and whole ones cannot be updated in one call.
        groups = [
            {
                "params": [p for p in self.parameters if (p.ndim >= 2) == matrix and is_part(p) == part],
                "weight_decay": config.weight_decay if matrix else 0.0,
            }
            for matrix in (True, False)
            for part in (False, True)
        ]
        # A sixth of the time on a CPU. On a GPU it would count its steps there, and is no faster than `foreach`, which
        # torch takes there by itself, but not for parts of weights.
        fused = all(p.device.type == "cpu" for p in self.parameters)
        self._adam = torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            fused=fused,
            foreach=not fused,
        )
        self.total_steps = total_steps
        self.taken = 0

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return self.config.lr * rate_factor(self.taken, self.total_steps, self.config)

    def step(self) -> float:
        """Clip, update, clear gradients; returns the norm before clipping. Raises Fault if it is not finite."""
        norm = clip_gradients(self.parameters, self.config.max_grad_norm)
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

    def state(self, *, copy: bool = True) -> dict[str, Tensor | int]:
        """Steps taken and moments; parameters by their place: they have no names here.

        A snapshot on the CPU, or, without `copy`, the moments themselves: to be written before the next step.
        """
        found: dict[str, Tensor | int] = {"taken": self.taken, "parameters": len(self.parameters)}
        for number, parameter in enumerate(self.parameters):
            for name, value in self._adam.state.get(parameter, {}).items():
                found[f"{number}.{name}"] = value.detach()
        return copied(found) if copy else found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a `state()`. Raises UserError if it is of other parameters."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            index, _, field = name.partition(".")
            if field:
                moments.setdefault(int(index), {})[field] = value
        same = int(state["parameters"]) == len(self.parameters) and all(
            t.shape == self.parameters[number].shape
            for number, fields in moments.items()
            for t in fields.values()
            if t.ndim
        )
        if not same:
            raise UserError("the optimizer's state is of another model", hint="restore it with the model it is of")
        self.taken = int(state["taken"])
        self._adam.state.clear()
        targets: dict[str, Tensor] = {}
        for number, fields in moments.items():
            parameter = self.parameters[number]
            # AdamW counts its steps on the CPU wherever the weights are.
            self._adam.state[parameter] = {
                field: torch.empty_like(value) if value.ndim == 0 else torch.empty_like(parameter, dtype=value.dtype)
                for field, value in fields.items()
            }
            targets |= {f"{number}.{field}": t.detach() for field, t in self._adam.state[parameter].items()}
        fill(targets, state)


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to the global norm `max_norm`; returns the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = total_norm(gradients)
    pieces = []
    for gradient in map(local, gradients):
        piece = torch.nn.Parameter(gradient, requires_grad=False)
        piece.grad = gradient
        pieces.append(piece)
    torch.nn.utils.clip_grads_with_norm_(pieces, max_norm, norm)
    return float(norm)


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
