"""The loop of every stage that learns from records: batches in fresh permutations, one optimizer step each."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from alignkit.checkpoints import CheckpointLoop, module_state, prefixed, restore_module, under
from alignkit.context import StepContext
from alignkit.modeling.sharding import shard
from alignkit.protocols import State
from alignkit.training.batching import shuffled_batches
from alignkit.training.config import DataTrainingConfig
from alignkit.training.keeping import Keeper
from alignkit.training.nonfinite import FILE, Accumulate, Describe, NonFinite
from alignkit.training.optimizer import Optimizer


def train_steps(
    module: nn.Module,
    count: int,
    config: DataTrainingConfig,
    context: StepContext,
    accumulate: Accumulate,
    *,
    totals: dict[str, float] | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    keeper: Keeper | None = None,
    describe: Describe | None = None,
) -> int:
    """`config.epochs` passes over `count` rows; returns the number of optimizer steps.

    `accumulate(indices)` puts the gradients of one batch in place and returns its metrics; their means over
    `config.log_every` steps are logged with the learning rate and the last gradient norm. A metric that a batch does
    not have (the accuracy of tied pairs only) is NaN and left out of its mean. What `accumulate` counts in `totals` is
    part of a checkpoint. `describe(i)` says what row i is, for the file of rows that are not finite; batches that
    `on_nonfinite: skip` leaves out are counted in `context.counts`. `evaluate()` (see `heldout_evaluation`) is asked
    every `config.eval_every` steps and at the end; its figures are logged, and `keeper` keeps models by them.

    A run that was interrupted goes on from the newest checkpoint of the step: what stands before this call is done
    again, from the weights that the stage began with.
    """
    total = max(1, round(math.ceil(count / config.batch_size) * config.epochs))
    training = _Training(module, count, config, context, total, totals if totals is not None else {})
    training.evaluate, training.keeper, training.watch.describe = evaluate, keeper, describe
    with context.checkpoints.loop() as loop:
        training.run(loop, accumulate)
    if training.watch.skipped:
        context.counts["steps_left_out"] = context.counts.get("steps_left_out", 0) + training.watch.skipped
    return total


class _Training:
    """A loop with everything that its next step depends on."""

    def __init__(
        self,
        module: nn.Module,
        count: int,
        config: DataTrainingConfig,
        context: StepContext,
        total: int,
        totals: dict[str, float],
    ) -> None:
        self.module = module
        self.count = count
        self.config = config
        self.context = context
        self.total = total
        self.totals = totals
        shard(module)
        self.optimizer = Optimizer(module.parameters(), config, total)
        where = f"step {context.step_id}"
        self.watch = NonFinite(config.on_nonfinite, self.optimizer.parameters, context.checkpoints.rows(FILE), where)
        self.generator = torch.Generator().manual_seed(context.seed)
        self.epoch_began = self.generator.get_state()  # the generator before this epoch's permutation was drawn
        self.step = 0
        self.in_epoch = 0
        self.window: list[dict[str, float]] = []  # metrics of the steps since the last row that was logged
        self.skipped = 0  # among those steps
        self.evaluate: Callable[[], dict[str, float]] | None = None
        self.keeper: Keeper | None = None

    def run(self, loop: CheckpointLoop, accumulate: Accumulate) -> None:
        state = loop.restored()
        if state is not None:
            self.restore(state)
        del state  # as large as weights and moments together
        self.context.start_progress(self.total, "step")
        for indices in self._batches():
            self._step(indices, accumulate)
            self._measure()
            loop.safe_point(self.step, self.state)

    def _batches(self) -> Iterator[list[int]]:
        while self.step < self.total:
            self.epoch_began = self.generator.get_state()
            batches = shuffled_batches(self.count, self.config.batch_size, self.generator)
            for indices in batches[self.in_epoch :]:
                if self.step == self.total:
                    return
                self.in_epoch += 1
                yield indices
            self.in_epoch = 0

    def _step(self, indices: Sequence[int], accumulate: Accumulate) -> None:
        self.module.train()
        lr = self.optimizer.lr
        metrics = self.watch.accumulated(self.step + 1, indices, accumulate, self.totals)
        norm = math.nan
        if metrics is not None:
            self.window.append(metrics)
            norm = self.optimizer.step()
        else:
            self.optimizer.skip(1)
            self.skipped += 1
        self.step += 1
        if self.step % self.config.log_every == 0 or self.step == self.total:
            self.context.log(self.step, {**self._means(), "lr": lr, "grad_norm": norm})
            self.window, self.skipped = [], 0

    def _means(self) -> dict[str, float]:
        """Of the batches since the last row; with `skip` also how many of them were left out."""
        names = self.window[0] if self.window else {}
        means = {name: _mean([row[name] for row in self.window]) for name in names}
        return means | ({"skipped": float(self.skipped)} if self.config.on_nonfinite == "skip" else {})

    def _measure(self) -> None:
        """Figures on held-out records, where they are due, and models that are to be kept."""
        measured: dict[str, float] = {}
        every = self.config.eval_every
        if self.evaluate is not None and (self.step == self.total or (every and self.step % every == 0)):
            measured = self.evaluate()
            self.context.log(self.step, measured)
        if self.keeper is not None:
            self.keeper.at(self.step, measured, self.total)

    def state(self) -> dict[str, Any]:
        """Everything at a step's end."""
        return {
            "step": self.step,
            "in_epoch": self.in_epoch,
            "epoch_began": self.epoch_began,
            "window": json.dumps(self.window),
            "skipped": self.skipped,
            "totals": json.dumps(self.totals),
            **prefixed("module", module_state(self.module)),
            **prefixed("optimizer", self.optimizer.state(copy=False)),
            **prefixed("watch", self.watch.state()),
            **prefixed("keeper", {} if self.keeper is None else self.keeper.state()),
        }

    def restore(self, state: State) -> None:
        """Go on where the loop was that gave `state`."""
        data: dict[str, Any] = dict(state)
        restore_module(self.module, under("module", data))
        self.optimizer.restore(under("optimizer", data))
        self.watch.restore(under("watch", data))
        self.step, self.in_epoch = data["step"], data["in_epoch"]
        self.window, self.skipped = json.loads(data["window"]), data["skipped"]
        self.totals.clear()
        self.totals.update(json.loads(data["totals"]))
        self.generator.set_state(data["epoch_began"])
        if self.keeper is not None:
            self.keeper.restore(under("keeper", data))


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
