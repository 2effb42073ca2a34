"""Findings about rows as they are written, whatever model reads them."""

from collections.abc import Iterator

from alignkit.preflight.finding import Finding
from alignkit.preflight.sample import NOTABLE, Sample, sides
from alignkit.records import Content, PreferencePair, Prompt, Record, content_id, plain_text


def content_findings(data: Sample, eval_data: Sample | None) -> Iterator[Finding]:
    """Empty, repeated and equal rows, and held-out ones that are trained on."""
    empty = [n for n, record in data.rows if any(_is_empty(completion) for _, completion in sides(record))]
    if len(empty) > NOTABLE * len(data.rows):
        yield Finding("R025", f"{data.counted(len(empty))} have a completion without a word", data.line(empty[0]))
    equal = [n for n, r in data.rows if isinstance(r, PreferencePair) and r.chosen == r.rejected]
    if equal:
        yield Finding("R027", data.counted(len(equal)), data.line(equal[0]))
    repeated = len(data.rows) - len({record.model_dump_json() for _, record in data.rows})
    if repeated > NOTABLE * len(data.rows):
        yield Finding("R026", f"{data.counted(repeated)} are exactly equal to an earlier one", data.path)
    if eval_data is not None:
        yield from overlap_findings(data, eval_data)


def overlap_findings(data: Sample, heldout: Sample) -> Iterator[Finding]:
    """Held-out prompts (texts, where there is no prompt) that stand among those trained on."""
    trained = {unit for _, record in data.rows for unit in _units(record)}
    both = [n for n, record in heldout.rows if trained & set(_units(record))]
    if len(both) > NOTABLE * len(heldout.rows):
        what = f"{heldout.counted(len(both))} held out have a prompt that is trained on too"
        more = f" (compared with {len(data.rows)} of {data.total:,} rows)" if data.total > len(data.rows) else ""
        yield Finding("R028", what + more, heldout.line(both[0]))


def _is_empty(completion: Content) -> bool:
    """Nothing that a reader would call a word."""
    text = completion if isinstance(completion, str) else "".join(m.content for m in completion)
    return not any(character.isalnum() for character in text)


def _units(record: Record) -> list[str]:
    if isinstance(record, Prompt):
        return [content_id(record.prompt)]
    pairs = sides(record)
    if not pairs:
        return []
    prompts = {prompt for prompt, _ in pairs if plain_text(prompt).strip()}
    return [content_id(p) for p in prompts] or [content_id(completion) for _, completion in pairs]


def is_conversation(sample: Sample) -> bool:
    """Whether rows are messages."""
    contents = [p for _, r in sample.rows for p, _ in sides(r)] + [
        r.prompt for _, r in sample.rows if isinstance(r, Prompt)
    ]
    return any(not isinstance(content, str) for content in contents)
