"""One of our training processes: `alignkit run RECIPE` in this process, with a clock around its parts.

    python ours.py --recipe FILE --json F [--allow-code NAME]

The recipe names the tracker of clock_tracker.py, which ends a step where metrics of one arrive. Parts are told apart at
the contracts between components (sampler, scores, hidden states, values, update), so nothing of the product is changed.
"""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from meter import METER, UPDATE
from peft import get_peft_model  # noqa: F401  imported before memory is read, as the run would do later
from transformers import AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel  # noqa: F401

import alignkit.engine.run
import alignkit.ops
import alignkit.training.pair_stage
import alignkit_plugins.optim_reward_model.stage
import alignkit_plugins.optim_sft.stage
import alignkit_plugins.step_align.step  # noqa: F401
from alignkit.cli import main as alignkit_main
from alignkit.loop.loop import AlignmentLoop
from alignkit.training.optimizer import Optimizer

CLOCK = METER.clock
ADVANTAGES = "advantages"
# Ops that are no work of the model.
LIGHT_OPS = ("gae",)


class Passes:
    """Names the passes without gradient that make experience, by the model that is asked."""

    def __init__(self) -> None:
        self.last = ""

    def watch(self, model: Any, method: str, part: str) -> None:
        """Time `model.method` as `part` while no gradient is wanted."""
        plain = getattr(model, method)
        timed = CLOCK.timed(part, plain)

        def watched(*arguments: Any, **options: Any) -> Any:
            if torch.is_grad_enabled() or not CLOCK.inside(ADVANTAGES):
                return plain(*arguments, **options)
            self.last = part
            return timed(*arguments, **options)

        setattr(model, method, watched)

    def of_op(self, *_: Any, **__: Any) -> str:
        """An op belongs to the loss, or to the log-probs of the hidden states that were computed last."""
        return self.last if CLOCK.inside(ADVANTAGES) else "loss"


PASSES = Passes()


def watch_training() -> None:
    """Forward passes, losses and log-probs, backward, optimizer."""
    CLOCK.wrap_backbone(LlamaModel)
    CLOCK.wrap(torch.autograd, "backward", "backward")
    CLOCK.wrap(Optimizer, "step", "optimizer")
    choose = alignkit.ops.choose_ops

    def timed_ops(*arguments: Any, **options: Any) -> Any:
        ops = choose(*arguments, **options)
        names = [f.name for f in fields(ops) if f.name not in (*LIGHT_OPS, "choice", "reason")]
        return replace(ops, **{name: CLOCK.timed(PASSES.of_op, getattr(ops, name)) for name in names})

    alignkit.ops.choose_ops = timed_ops


def watch_loop() -> None:
    """Parts of an iteration of the alignment loop; what is left of making experience is `advantages`."""
    start = AlignmentLoop.__post_init__

    def watched(loop: AlignmentLoop) -> None:
        start(loop)
        CLOCK.wrap(loop.sampler, "rollout", "rollout")
        CLOCK.wrap(loop.reward_source, "score", "score")
        CLOCK.wrap(loop, "experience", ADVANTAGES)
        CLOCK.wrap(loop, "_experience", ADVANTAGES)
        CLOCK.wrap(loop.stage, "update", UPDATE)
        PASSES.watch(loop.policy, "hidden", "old log-probs")
        PASSES.watch(loop.reference, "hidden", "reference log-probs")
        if loop.critic is not None:
            PASSES.watch(loop.critic, "values", "values")

    AlignmentLoop.__post_init__ = watched  # type: ignore[method-assign]


def main() -> None:
    """Run the recipe, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--allow-code", nargs="*", default=[])
    arguments = parser.parse_args()
    watch_training()
    watch_loop()
    METER.loaded()
    command = ["run", arguments.recipe]
    command += [part for name in arguments.allow_code for part in ("--allow-code", name)]
    try:
        alignkit_main(command)
    except SystemExit as ending:
        if ending.code:
            sys.exit(ending.code)
    METER.write(arguments.json)


if __name__ == "__main__":
    main()
