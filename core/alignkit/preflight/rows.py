"""Findings about rows as a model reads them: too long, without an end, with tokens that do not belong there."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignkit.errors import UserError
from alignkit.preflight.finding import Finding
from alignkit.preflight.folder import ModelFacts
from alignkit.preflight.sample import ENCODED, NOTABLE, DataView, Sample, sides
from alignkit.preflight.tokens import encoder_findings, text_findings

LONGEST = 10


class EncodedRow(NamedTuple):
    """A row's texts as (ids of the prompt, ids of the completion)."""

    line: int
    sides: list[tuple[list[int], list[int]]]

    @property
    def length(self) -> int:
        """Of its longest text."""
        return max(len(prompt) + len(completion) for prompt, completion in self.sides)


def row_findings(view: DataView, max_length: int, too_long: str, option: str = "max_length") -> Iterator[Finding]:
    """Everything about the rows of a stage that trains on prompts and completions up to `max_length` tokens.

    `too_long` is what it does with longer rows: drop, truncate or error.
    """
    if view.model is None:
        return
    sample = view.data.at_most(ENCODED)
    rows, bad = encode(view.model, sample)
    yield from bad
    if not rows:
        return
    yield from encoder_findings(view.model, [row.sides for row in rows], sample)
    yield from text_findings(view.model, sample)
    yield from length_findings(view.model, rows, sample, max_length, too_long, option)


def encode(model: ModelFacts, sample: Sample) -> tuple[list[EncodedRow], list[Finding]]:
    """The rows of a sample, and a finding for those that cannot be encoded."""
    rows: list[EncodedRow] = []
    failed: list[tuple[int, UserError]] = []
    for line, record in sample.rows:
        try:
            found = [(model.encoder.prompt(p), model.encoder.completion(p, c)) for p, c in sides(record)]
        except UserError as error:
            failed.append((line, error))
            continue
        if found:
            rows.append(EncodedRow(line, found))
    if not failed:
        return rows, []
    line, first = failed[0]
    what = f"{sample.counted(len(failed))}; the first: {first.what}"
    return rows, [Finding("R017", what, sample.line(line), first.hint or "")]


def length_findings(
    model: ModelFacts, rows: Sequence[EncodedRow], sample: Sample, max_length: int, too_long: str, option: str
) -> Iterator[Finding]:
    """What becomes of rows that are too long, and whether those that stay fit the model."""
    over = [row for row in rows if row.length > max_length]
    cut = [row for row in over if too_long == "truncate" and any(len(prompt) < max_length for prompt, _ in row.sides)]
    kept = [min(row.length, max_length) for row in rows if row.length <= max_length or row in cut]
    if over:
        longest = max(row.length for row in over)
        what = f"{sample.counted(len(over))} are longer than {max_length} tokens, the longest has {longest}"
        if too_long == "error":
            yield Finding("R023", what, sample.line(over[0].line))
        elif not kept:
            yield Finding("R020", what, option)
        elif cut:
            left_out = f", {len(over) - len(cut)} have no room for an answer" if len(over) > len(cut) else ""
            yield Finding("R010", f"{what}; {len(cut)} are cut and lose the end token{left_out}", option)
        elif len(over) > NOTABLE * len(rows):
            yield Finding("R021", f"{what}; they are left out", option)
        else:
            yield Finding("R022", f"{what}; they are left out", option)
    if kept and model.max_positions is not None and max(kept) > model.max_positions:
        what = f"a row that stays has {max(kept)} tokens, and the model {model.max_positions} positions"
        yield Finding("R024", what, option)


def block_findings(view: DataView, block_length: int, option: str = "block_length") -> Iterator[Finding]:
    """The same for texts that are joined and cut into blocks."""
    model = view.model
    if model is not None and model.max_positions is not None and block_length > model.max_positions:
        what = f"blocks have {block_length} tokens, and the model {model.max_positions} positions"
        yield Finding("R024", what, option)


def longest_row(model: ModelFacts, sample: Sample) -> int:
    """Tokens of the longest text, of the longest in characters of all that were read."""
    rows = sorted(sample.rows, key=lambda row: len(row[1].model_dump_json()), reverse=True)[:LONGEST]
    encoded, _ = encode(model, sample._replace(rows=rows))
    return max((row.length for row in encoded), default=0)
