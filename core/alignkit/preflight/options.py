"""Findings about options alone: they need no file and no model."""

from collections.abc import Iterator

from alignkit.preflight.finding import Finding
from alignkit.records import Sampling
from alignkit.training.config import OptimizerConfig

HIGH_RATE = 1e-2
# Passes over the prompts from which on a policy may learn them by heart.
MANY_PASSES = 10


def optimizer_findings(config: OptimizerConfig) -> Iterator[Finding]:
    """Of any stage with an optimizer."""
    for option in ("lr", "critic_lr"):
        rate = getattr(config, option, None)
        if rate is not None and rate >= HIGH_RATE:
            yield Finding("R040", f"{option} is {rate:g}", option)


def batch_findings(config: object, total: int) -> Iterator[Finding]:
    """Whether a batch can be filled."""
    size = getattr(config, "batch_size", None)
    if size is not None and size > total:
        rows = "is 1 row" if total == 1 else f"are {total} rows"
        yield Finding("R029", f"batch_size is {size}, and there {rows}: a pass is one step", "batch_size")


def sampling_findings(sampling: Sampling) -> Iterator[Finding]:
    """Of rollouts that are trained on."""
    limits = [f"top_k {sampling.top_k}"] * bool(sampling.top_k) + [f"top_p {sampling.top_p:g}"] * (sampling.top_p < 1)
    if limits:
        what = f"{' and '.join(limits)}: updates count the tokens that could be drawn, and KL is not measured"
        yield Finding("R041", what, "sampling")


def usage_findings(iterations: int, batch_size: int, samples_per_prompt: int, prompts: int) -> Iterator[Finding]:
    """How often each prompt is asked."""
    distinct = -(-batch_size // samples_per_prompt)
    passes = iterations * distinct / prompts
    if distinct > prompts:
        what = f"a batch has {distinct} prompts, and there are {prompts}: some are asked twice in one batch"
        yield Finding("R029", what, "batch_size")
    elif passes >= MANY_PASSES:
        yield Finding("R033", f"each of {prompts:,} prompts is asked in {passes:.0f} iterations", "iterations")
