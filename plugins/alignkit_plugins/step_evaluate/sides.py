"""The two that are compared: `policy` drawn by `sampler`, and `against` drawn by `against_sampler`."""

from typing import TYPE_CHECKING

from alignkit.context import StepContext
from alignkit.errors import UserError
from alignkit.loop.origin import Origin, draws_texts, origin_of

if TYPE_CHECKING:
    from alignkit_plugins.step_evaluate.plugin import EvaluateConfig


def check_sides(config: "EvaluateConfig", context: StepContext) -> tuple[bool, bool]:
    """Whether `policy` and `against` are policies. Raises UserError where options and samplers do not go together."""
    other = config.against_sampler or config.sampler
    policy = not draws_texts(config.sampler, {"policy": config.policy}, context)
    against = not draws_texts(other, {"against": config.against}, context)
    if against and config.against is None:
        raise UserError("against is missing: what policy is compared with", where="against", hint="name a step")
    if not policy and not against:
        draws_texts(other, {"max_prompt_length": config.max_prompt_length}, context)
        if other == config.sampler:
            what = "both sides would be answered by the same model"
            raise UserError(what, where="against_sampler", hint="name the other one's server, or a policy in `against`")
    return policy, against


def both_origins(config: "EvaluateConfig", context: StepContext) -> tuple[Origin, Origin]:
    """That of `policy` and that of `against`."""
    check_sides(config, context)
    new = origin_of(config.sampler, config.policy, context)
    same = None if config.against_sampler else new.sampler
    return new, origin_of(config.against_sampler or config.sampler, config.against, context, same)
