"""Inputs for the ops without a vocabulary projection: losses of a token or a pair, log-probs of logits, advantages.

The rule of `alignkit.testing.kernel_cases` holds, with `ROUNDINGS` times eps times the largest result for one rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from alignkit.ops import OPS
from alignkit.testing.kernel_cases import Results, Truth, size

ROUNDINGS = 16
TOKENS = 300
NEGATIVE_INFINITY = -float("inf")


@dataclass(frozen=True)
class LossCase:
    """An op with its arguments: first those that have a gradient, then the others as they come."""

    name: str
    op: str
    leaves: tuple[Tensor, ...]
    rest: tuple[Any, ...] = ()
    dtype: torch.dtype = torch.float32

    def arguments(self, device: str = "cpu", wide: bool = False) -> tuple[list[Tensor], list[Any]]:
        """Copies of the leaves and the rest; in float64 with `wide`, rounded to the case's own type before."""

        def moved(x: Any, dtype: torch.dtype) -> Any:
            if not isinstance(x, Tensor):
                return x
            if x.is_floating_point():
                x = x.to(dtype).to(torch.float64 if wide else dtype)
            return x.to(device, copy=True)

        leaves = [moved(x, self.dtype).detach().requires_grad_() for x in self.leaves]
        return leaves, [moved(x, torch.float32) for x in self.rest]

    def __call__(self, implementation: Callable[..., Any], device: str = "cpu", wide: bool = False) -> Results:
        """Values and gradients."""
        leaves, rest = self.arguments(device, wide)
        values = named(implementation(*leaves, *rest))
        slopes = torch.linspace(-1.0, 2.0, TOKENS)
        losses = [
            (x * slopes.to(x)[torch.arange(x.numel(), device=x.device) % TOKENS].view(x.shape)).sum()
            for x in values.values()
            if x.requires_grad
        ]
        if losses:
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        gradients = {f"d{i}": x.grad for i, x in enumerate(leaves) if x.grad is not None}
        return {name: x.detach() for name, x in values.items()} | gradients


def named(found: Any) -> Results:
    """The tensors that an op returns, by their places and names."""
    parts = found if isinstance(found, tuple) else (found,)
    values: Results = {}
    for i, part in enumerate(parts):
        values |= {str(i): part} if isinstance(part, Tensor) else {str(k): x for k, x in part.items()}
    return values


@cache
def loss_truth(case: LossCase, device: str = "cpu") -> Truth:
    """What an implementation is held to."""
    gold, eager = case(OPS[case.op], wide=True), case(OPS[case.op], device)
    one = ROUNDINGS * torch.finfo(case.dtype).eps
    return Truth(gold, eager, {key: one * max(1.0, size(x)) for key, x in gold.items()})


@cache
def loss_cases(tokens: int = TOKENS) -> tuple[LossCase, ...]:
    """The same ones each time."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, y, z, w = (normal(tokens) for _ in range(4))
    y = x + 0.5 * y
    lengths = torch.randint(1, 18, (5,), generator=generator)
    mask = torch.arange(17) < lengths[:, None]
    logits, targets = 4 * normal(min(tokens, 5), 1025), torch.tensor([0, 7, 1024, 512, 511])[:tokens]
    return (
        LossCase("policy_loss", "policy_loss", (x,), (y, z, 0.2, 0.3)),
        LossCase("policy_loss with dual clip", "policy_loss", (x,), (y, z, 0.2, 0.2, 1.5)),
        LossCase("value_loss", "value_loss", (x,), (y, z, None)),
        LossCase("value_loss with clipping", "value_loss", (x,), (y, z, 0.2)),
        LossCase("pairwise_loss", "pairwise_loss", (x, y), ((3 * z).sigmoid(), w.abs(), w.square())),
        LossCase("gae", "gae", (), (normal(5, 17) * mask, normal(5, 17) * mask, mask, 0.99, 0.95)),
        LossCase("gae of one token", "gae", (), (normal(3, 1), normal(3, 1), torch.ones(3, 1).bool(), 1.0, 0.0)),
        LossCase("token_logprob", "token_logprob", (logits,), (targets,)),
        LossCase("token_logprob in bfloat16", "token_logprob", (logits,), (targets, 0.7), torch.bfloat16),
    )


@cache
def extreme_cases() -> tuple[LossCase, ...]:
    """Numbers that overflow where an exponential is taken before the maximum is."""
    x = torch.tensor([0.0, -30.0, 30.0, 5.0])
    ones = torch.ones(4)
    logits = torch.tensor([[1e4, 0.0, -1e4, 1.0], [-1e4, -1e4, -1e4, -1.001e4], [0.0, NEGATIVE_INFINITY, 3.0, 1.0]])
    return (
        LossCase("policy_loss of unlike policies", "policy_loss", (x,), (-x, torch.tensor([1.0, -1, 1, -1]), 0.2, 0.2)),
        LossCase("pairwise_loss of far scores", "pairwise_loss", (20 * x, -20 * x), (ones / 2, 0 * ones, ones)),
        LossCase("token_logprob of far logits", "token_logprob", (logits,), (torch.tensor([1, 3, 0]),)),
    )
