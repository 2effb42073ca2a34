"""Sampling from a model outside a run (`alignkit sample`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError
from alignkit.loop.rollouts import checked_rollout
from alignkit.protocols import Policy, Sampler
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve, validated
from alignkit.recipe.source import Lines
from alignkit.records import Message, Prompt, Sampling, plain_text
from alignkit.standalone import standalone_context


def sample_model(
    model: str, texts: list[str], file: Path | None, options: dict[str, Any], seed: int
) -> Iterator[tuple[str, str, bool]]:
    """(prompt, completion, whether it is a conversation). `options` are fields of `Sampling`."""
    sampling = validated(Sampling, options, Lines("command line"))
    spec = ComponentSpec(name="causal_lm", path=model)
    context = standalone_context(spec, seed)
    resolve(context.manager, "policy", spec, Lines("command line"), allowed=frozenset())
    policy: Policy = context.build("policy", spec)
    sampler: Sampler = context.build("sampler", ComponentSpec(name="hf"))
    if file is not None:
        prompts = list(_read_prompts(file))
        if not prompts:
            raise UserError("the file has no prompt", where=file)
    else:
        prompts = [_prompt(policy, text) for text in texts]
    rollout = checked_rollout(sampler, policy, prompts, sampling, seed)
    for prompt, text in zip(prompts, rollout.texts, strict=True):
        yield plain_text(prompt.prompt), text, not isinstance(prompt.prompt, str)


def _read_prompts(file: Path) -> Iterator[Prompt]:
    """The column `prompt` of every row, text or messages; other columns are left alone."""
    try:
        for source in read_rows(str(file)):
            row = source.row if isinstance(source.row, dict) else {}
            yield validated(Prompt, {k: v for k, v in row.items() if k == "prompt"}, Lines(source.where))
    except BadRow as bad:
        raise UserError(bad.problem, where=bad.where, hint="mend the line") from None


def _prompt(policy: Policy, text: str) -> Prompt:
    chat = getattr(policy, "has_chat_template", False)
    return Prompt(prompt=(Message(role="user", content=text),) if chat else text)
