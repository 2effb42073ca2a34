"""The kinds of plugin that can be written, and for two of them which of two forms."""

from dataclasses import dataclass
from typing import Any

from alignkit.components import Kind
from alignkit.errors import UserError


@dataclass(frozen=True)
class Variant:
    """One folder of templates. `options` tells apart the forms of a kind that has several."""

    folder: str
    kind: Kind
    suite: str
    suffix: str
    options: tuple[tuple[str, str], ...] = ()
    extra_files: tuple[str, ...] = ()


# The first form of a kind is what it gets when nothing is said.
VARIANTS: tuple[Variant, ...] = (
    Variant("policy", "policy", "PolicyContract", "Policy"),
    Variant("reward_scores", "reward_source", "ScoresContract", "Reward", (("reward_form", "scores"),)),
    Variant("reward_judgements", "reward_source", "AnnotatesContract", "Judge", (("reward_form", "judgements"),)),
    Variant("advantage", "advantage", "AdvantageContract", "Advantage"),
    Variant("stage_rollouts", "optimizer_stage", "RolloutStageContract", "Objective", (("learns_from", "rollouts"),)),
    Variant("stage_records", "optimizer_stage", "DataStageContract", "Stage", (("learns_from", "records"),)),
    Variant("sampler", "sampler", "SamplerContract", "Sampler"),
    Variant("data_format", "data_format", "DataFormatContract", "Format", extra_files=("answers.txt",)),
    Variant("kernel", "kernel", "KernelContract", "Kernel"),
)
VARIANT_KINDS: tuple[Kind, ...] = tuple(dict.fromkeys(v.kind for v in VARIANTS))


def variant_of(kind: str, **options: str | None) -> Variant:
    """The variant of a kind. Raises UserError for an option that says nothing about this kind."""
    found = [v for v in VARIANTS if v.kind == kind]
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if not any(name in dict(v.options) for v in found):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} has no meaning for the kind {kind}", where=flag, hint="leave it out")
    return next(v for v in found if given.items() <= dict(v.options).items())
