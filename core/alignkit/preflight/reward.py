"""Findings about a reward model before it is spent on: can it read the completions, and does it know good from bad."""

import math
from collections.abc import Iterator
from typing import Any

from alignkit.context import StepContext
from alignkit.preflight.finding import Finding
from alignkit.preflight.folder import ModelFacts
from alignkit.preflight.models import found_or_none, inputs_of, made_by
from alignkit.preflight.sample import Sample
from alignkit.records import PreferencePair

# Pairs that are scored, and how many more if the first do not look right: ten alone can be bad luck.
PAIRS, MORE_PAIRS = 10, 100
# Weights above this are not loaded a second time for a look.
LARGEST = 4_000_000_000


def length_findings(
    reward: ModelFacts, reference: str, tokens: int, context: StepContext, option: str
) -> Iterator[Finding]:
    """Whether the longest completion with its prompt is as long as what the reward model learned from."""
    stage = made_by(reference, context).get("optimizer_stage")
    learned = stage.get("max_length") if isinstance(stage, dict) else None
    positions = reward.max_positions
    if positions is not None and tokens > positions:
        yield Finding("R054", f"up to {tokens} tokens, and {reference} has {positions} positions", option)
    elif isinstance(learned, int) and tokens > learned:
        what = f"up to {tokens} tokens with the prompt, and {reference} learned from at most {learned}"
        yield Finding("R053", what, option)


def sampling_differences(reference: str, sampling: dict[str, Any], context: StepContext) -> Iterator[Finding]:
    """Whether the samples that a reward model learned from were drawn otherwise."""
    for source in inputs_of(reference, context):
        before = made_by(source, context).get("sampling")
        if not isinstance(before, dict):
            continue
        keys = ("temperature", "top_k", "top_p")
        defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        differ = [k for k in keys if before.get(k, defaults[k]) != sampling[k]]
        if differ:
            shown = ", ".join(f"{k} {before.get(k, defaults[k])} there, {sampling[k]} here" for k in differ)
            yield Finding("R042", f"{source} and this step: {shown}", "sampling")


def sanity_findings(reward: ModelFacts, reference: str, context: StepContext, option: str) -> Iterator[Finding]:
    """Scores of pairs that the reward model was made from, held-out ones first; for a folder from elsewhere none."""
    if reward.parameters * 4 > LARGEST:
        yield Finding("R004", f"{reference}: its scores; the model is too large to be loaded twice", option)
        return
    pairs = _pairs(reference, context)
    if pairs is None or not pairs.rows:
        yield Finding("R004", f"{reference}: its scores; the recipe has no pairs that it learned from", option)
        return
    first = pairs.at_most(PAIRS)
    points = scored_points(reward, first, context)
    if points is not None and sum(points) <= len(points) / 2 and len(pairs.rows) > len(first.rows):
        points = scored_points(reward, pairs, context)
    if points is None:
        yield Finding("R056", f"{reference}: scores that are not finite, on {len(first.rows)} of its own pairs", option)
    elif all(point == 0.5 for point in points):
        yield Finding("R056", f"{reference}: equal scores for both sides of all {len(points)} pairs looked at", option)
    elif sum(points) <= len(points) / 2:
        what = f"{reference}: right on {sum(points):g} of {len(points)} pairs from {pairs.path}"
        yield Finding("R055", what, option)


def _pairs(reference: str, context: StepContext) -> Sample | None:
    for source in inputs_of(reference, context):
        for find in (context.heldout, context.records):
            found = found_or_none(find, source, "preferences")
            if found:
                sample = Sample.of(found, MORE_PAIRS)
                decided = [(n, pair) for n, pair in sample.rows if isinstance(pair, PreferencePair) and pair.p != 0.5]
                return sample._replace(rows=decided)
    return None


def scored_points(reward: ModelFacts, pairs: Sample, context: StepContext) -> list[float] | None:
    """1 for each pair in the right order, 1/2 for equal scores, else 0; None if a score is not finite."""
    from alignkit.modeling.scorer import SequenceScorer

    scorer = SequenceScorer.load(reward.path, context.device)
    rows: list[list[int]] = []
    for _, pair in pairs.rows:
        assert isinstance(pair, PreferencePair)
        better, worse = (pair.chosen, pair.rejected) if pair.p > 0.5 else (pair.rejected, pair.chosen)
        rows += [scorer.row(pair.prompt, better), scorer.row(pair.prompt, worse)]
    room = reward.max_positions
    scores: list[float] = scorer.score_rows([row if room is None else row[-room:] for row in rows]).tolist()
    if not all(map(math.isfinite, scores)):
        return None
    return [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(scores[::2], scores[1::2], strict=True)]
