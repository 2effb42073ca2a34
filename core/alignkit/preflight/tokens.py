"""Findings about a tokenizer and its template: where an answer ends, and what stands in front of it."""

from collections.abc import Iterator, Sequence

from alignkit.preflight.content import is_conversation
from alignkit.preflight.finding import Finding
from alignkit.preflight.folder import ModelFacts
from alignkit.preflight.sample import NOTABLE, Sample, sides
from alignkit.records import Content, Prompt, Text

Ids = Sequence[tuple[Sequence[int], Sequence[int]]]


def encoder_findings(model: ModelFacts, encoded: Sequence[Ids], sample: Sample) -> Iterator[Finding]:
    """Of rows as (prompt ids, completion ids): stop tokens, start tokens, ids beyond the vocabulary."""
    encoder, where = model.encoder, model.path
    last = {completion[-1] for sides in encoded for _, completion in sides if completion}
    unknown = sorted(last - model.saved_stop_ids)
    if unknown:
        what = f"answers end with {_names(model, unknown)}, and the folder's configs end generation at "
        yield Finding("R012", what + (_names(model, sorted(model.saved_stop_ids)) or "nothing"), where)
    if encoder.pad_id in encoder.stop_ids:
        yield Finding("R011", f"{_names(model, [encoder.pad_id])} is padding and an end token", where)
    if is_conversation(sample) and encoder.turn_end_id is None:
        what = f"no special token follows an answer, so {_names(model, [encoder.end_id])} is put behind it"
        yield Finding("R013", what, where)
    start = encoder.tokenizer.bos_token_id
    twice = sum(any(list(p[:2]) == [start, start] for p, _ in sides) for sides in encoded)
    if start is not None and twice:
        yield Finding("R014", f"{sample.counted(twice)} begin with {_names(model, [start, start])}", sample.path)
    yield from vocabulary_findings(model, {i for sides in encoded for p, c in sides for i in (*p, *c)})


def vocabulary_findings(model: ModelFacts, used: set[int]) -> Iterator[Finding]:
    """Ids that would be looked up behind the end of the embedding; padding is looked up too."""
    vocabulary = model.vocabulary
    tokens = len(model.encoder.tokenizer)
    if not vocabulary or tokens <= vocabulary:
        return
    beyond = sorted(i for i in {*used, *model.encoder.stop_ids, model.encoder.pad_id} if i >= vocabulary)
    sizes = f"the tokenizer has {tokens} ids and the model {vocabulary}"
    if beyond:
        yield Finding("R016", f"{sizes}; used ones beyond: {_names(model, beyond[:3])}", model.path)
    else:
        yield Finding("R019", f"{sizes}; the rows looked at use none beyond", model.path)


def text_findings(model: ModelFacts, sample: Sample) -> Iterator[Finding]:
    """Special tokens that are written out in texts, and plain texts for a model that was made for messages."""
    tokenizer = model.encoder.tokenizer
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    specials = sorted({*tokenizer.all_special_tokens, *added})
    found = {n: [s for s in specials if any(s in text for text in _texts(record))] for n, record in sample.rows}
    having = [n for n, names in found.items() if names]
    if len(having) > NOTABLE * len(sample.rows):
        names = ", ".join(sorted({name for n in having for name in found[n]})[:3])
        yield Finding("R015", f"{sample.counted(len(having))} contain {names}", sample.line(having[0]))
    plain = not is_conversation(sample) and not any(isinstance(record, Text) for _, record in sample.rows)
    if plain and getattr(tokenizer, "chat_template", None):
        what = "the tokenizer has a chat template, and the rows are plain texts: it is not applied to them"
        yield Finding("R018", what, sample.path)


def _texts(record: object) -> list[str]:
    if isinstance(record, Prompt):
        return _plain(record.prompt)
    if isinstance(record, Text):
        return [record.text]
    return [text for pair in sides(record) for side in pair for text in _plain(side)]  # type: ignore[arg-type]


def _plain(content: Content) -> list[str]:
    return [content] if isinstance(content, str) else [m.content for m in content]


def _names(model: ModelFacts, ids: Sequence[int]) -> str:
    return " ".join(str(t) for t in model.encoder.tokenizer.convert_ids_to_tokens(list(ids)))
