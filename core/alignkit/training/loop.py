"""The loop of every stage that learns from records: batches in fresh permutations, one optimizer step each."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from alignkit.context import StepContext
from alignkit.training.batching import shuffled_batches
from alignkit.training.config import DataTrainingConfig
from alignkit.training.optimizer import Optimizer


def train_steps(
    module: nn.Module,
    count: int,
    config: DataTrainingConfig,
    context: StepContext,
    accumulate: Callable[[Sequence[int]], dict[str, float]],
) -> int:
    """`config.epochs` passes over `count` rows; returns the number of optimizer steps.

    `accumulate(indices)` puts the gradients of one batch in place and returns its metrics; their means over
    `config.log_every` steps are logged with the learning rate and the last gradient norm. A metric that a batch does
    not have (the accuracy of tied pairs only) is NaN and left out of its mean.
    """
    total = max(1, round(math.ceil(count / config.batch_size) * config.epochs))
    optimizer = Optimizer(module.parameters(), config, total)
    generator = torch.Generator().manual_seed(context.seed)
    context.start_progress(total, "step")
    step = 0
    window: list[dict[str, float]] = []
    while step < total:
        for indices in shuffled_batches(count, config.batch_size, generator)[: total - step]:
            module.train()
            lr = optimizer.lr
            window.append(accumulate(indices))
            norm = optimizer.step()
            step += 1
            if step % config.log_every == 0 or step == total:
                means = {name: _mean([row[name] for row in window]) for name in window[0]}
                context.log(step, {**means, "lr": lr, "grad_norm": norm})
                window = []
    return total


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
