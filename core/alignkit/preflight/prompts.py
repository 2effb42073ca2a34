"""Findings about prompts that a policy is asked: room for the answer, and what the template makes of them."""

from collections.abc import Iterator

from alignkit.errors import UserError
from alignkit.modeling.encoding import PROBE
from alignkit.preflight.finding import Finding
from alignkit.preflight.folder import ModelFacts
from alignkit.preflight.sample import ENCODED, NOTABLE, Sample
from alignkit.preflight.tokens import encoder_findings, text_findings
from alignkit.records import Prompt, Sampling, plain_text

# The longest prompts of those that were read, in characters, are encoded too.
LONGEST = 20


def prompt_findings(
    model: ModelFacts, prompts: Sample, sampling: Sampling, max_prompt_length: int | None
) -> Iterator[Finding]:
    """Whether prompts are left out, and those that stay fit the model together with an answer."""
    sample = prompts.at_most(ENCODED)
    try:
        spread = [model.encoder.prompt(record.prompt) for _, record in sample.rows if isinstance(record, Prompt)]
        longest = [len(model.encoder.prompt(record.prompt)) for record in longest_prompts(prompts)]
        first = sample.rows[0][1]
        assert isinstance(first, Prompt)
        model.encoder.completion(first.prompt, PROBE)  # whether an answer continues what the template begins
    except UserError as error:
        yield Finding("R017", f"prompts: {error.what}", prompts.path, error.hint or "")
        return
    yield from encoder_findings(model, [[(ids, [])] for ids in spread], sample)
    yield from text_findings(model, sample)
    lengths = [len(ids) for ids in spread]
    over = [n for n in lengths if max_prompt_length is not None and n > max_prompt_length]
    if over:
        what = f"{sample.counted(len(over))} have more than {max_prompt_length} tokens and are left out"
        code = "R032" if len(over) == len(lengths) else "R031" if len(over) > NOTABLE * len(lengths) else "R022"
        yield Finding(code, what, "max_prompt_length")
    stay = [n for n in (*lengths, *longest) if max_prompt_length is None or n <= max_prompt_length]
    if stay:
        yield from room_findings(max(stay), sampling.max_length, model.max_positions)


def longest_prompts(prompts: Sample) -> list[Prompt]:
    """The longest in characters of all that were read."""
    records = [record for _, record in prompts.rows if isinstance(record, Prompt)]
    return sorted(records, key=lambda record: len(plain_text(record.prompt)), reverse=True)[:LONGEST]


def room_findings(prompt: int, answer: int, positions: int | None) -> Iterator[Finding]:
    """Whether prompt and answer fit the model."""
    if positions is not None and prompt + answer > positions:
        what = f"a prompt of {prompt} tokens and an answer of {answer} are more than the model's {positions} positions"
        yield Finding("R030", what, "sampling.max_length")


def longest_tokens(model: ModelFacts, prompts: Sample, max_prompt_length: int | None) -> int:
    """Tokens of the longest prompt that stays, of those that were read."""
    spread = [record for _, record in prompts.at_most(ENCODED).rows if isinstance(record, Prompt)]
    lengths = {len(model.encoder.prompt(record.prompt)) for record in (*spread, *longest_prompts(prompts))}
    return max((n for n in lengths if max_prompt_length is None or n <= max_prompt_length), default=0)
