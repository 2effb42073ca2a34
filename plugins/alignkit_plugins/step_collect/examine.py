"""What can be seen of a step that collects feedback before it runs: its prompts and the policy that answers them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignkit.context import StepContext
from alignkit.loop.origin import draws_texts
from alignkit.preflight import Finding, Sample
from alignkit.preflight.models import policy_facts, said_positions
from alignkit.preflight.prompts import prompt_findings, room_findings
from alignkit.preflight.sample import READ

if TYPE_CHECKING:
    from alignkit_plugins.step_collect.config import CollectConfig


def examine_collect(config: "CollectConfig", context: StepContext) -> Iterator[Finding]:
    """Of a step that samples; tasks made elsewhere are looked at when they are read."""
    if config.prompts is None or (context.folder / "tasks.jsonl").is_file():
        return
    alone = draws_texts(config.sampler, config.of_a_policy(), context)
    if not alone:
        yield from room_findings(1, config.sampling.max_length, said_positions(config.policy, context))
    prompts = Sample.of(context.records(config.prompts, "prompts"), READ)
    if config.limit is not None and config.limit > prompts.total and prompts.complete:
        what = f"limit is {config.limit}, and there are {prompts.total} prompts: later rounds ask some again"
        yield Finding("R033", what, "limit")
    model = None if alone else policy_facts(config.policy, context)
    if model is not None:
        yield from prompt_findings(model, prompts, config.sampling, config.max_prompt_length)
