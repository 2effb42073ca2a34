"""Rows that this project's data formats read: chosen and rejected, hh-rlhf transcripts, good or bad completions."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.manager import PluginManager
from alignkit.protocols import DataFormat, SourceRow
from alignkit.recipe.check import validated
from alignkit.recipe.source import Lines
from alignkit.records import Binary, LabelledCompletion, Pairwise, PreferencePair, Record
from alignkit_plugins.command_feedback.importing.items import (
    Item,
    Maker,
    apart,
    number,
    row_object,
    single_answer,
    value,
)


class TRLOptions(Config):
    """Options of `trl`: pairs of texts or messages; the prompt is a column, or what both answers begin with."""

    prompt: str = Field("prompt", description="column with the prompt; may be missing in all rows")
    chosen: str = Field("chosen", description="column with the preferred answer")
    rejected: str = Field("rejected", description="column with the other answer")
    p: str = Field("p", description="column with the probability that chosen is better, if rows have it")
    votes_for: str | None = Field(None, description="column with the number of votes for chosen")
    votes_against: str | None = Field(None, description="column with the number of votes for rejected")
    votes_equal: str | None = Field(None, description="column with the number of votes for neither")


class HHOptions(Config):
    """Options of `hh`: transcripts of hh-rlhf."""

    chosen: str = Field("chosen", description="column with the preferred transcript")
    rejected: str = Field("rejected", description="column with the other transcript")


class KTOOptions(Config):
    """Options of `kto`: completions labelled good or bad, unpaired."""

    prompt: str = Field("prompt", description="column with the prompt")
    completion: str = Field("completion", description="column with the completion")
    label: str = Field("label", description="column with true or false")


class PairForm:
    """`trl` and `hh`: a row is one task of two candidates."""

    def __init__(self, options: TRLOptions | HHOptions, maker: Maker, manager: PluginManager) -> None:
        self._options = options
        self._maker = maker
        self._seen = Counter[str]()
        self._voted = isinstance(options, TRLOptions) and any(
            (options.votes_for, options.votes_against, options.votes_equal)
        )
        names = {f"{key}_field": name for key, name in options if key in ("prompt", "chosen", "rejected")}
        self._format = _data_format("preference" if isinstance(options, TRLOptions) else "hh", names, manager)

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task. Its candidates are ordered by their ids, so that their place does not tell which was chosen."""
        row = row_object(source)
        for record in _records(self._format, source):
            assert isinstance(record, PreferencePair)
            texts = [single_answer(record.chosen, "chosen"), single_answer(record.rejected, "rejected")]
            chosen, rejected = self._maker.candidates(record.prompt, texts)
            task = self._maker.task(record.prompt, sorted((chosen, rejected), key=lambda c: c.id))
            if self._voted:
                task = apart(task, self._seen)
            judgements = [
                self._maker.judgement(task, Pairwise(a=chosen.id, b=rejected.id, p_a=p), who)
                for who, p in self._votes(row)
            ]
            yield Item(task, judgements, Counter(margins=int(record.margin != 0)))

    def _votes(self, row: dict[str, Any]) -> Iterator[tuple[str | None, float]]:
        """(annotator, probability that chosen is better)."""
        options = self._options
        if isinstance(options, HHOptions):
            yield None, 1.0
            return
        columns = ((options.votes_for, 1.0), (options.votes_against, 0.0), (options.votes_equal, 0.5))
        if not self._voted:
            p = row.get(options.p)
            yield None, 1.0 if p is None else _probability(p, options.p)
            return
        ps = [p for column, p in columns if column for _ in range(_count(row, column))]
        if not ps:
            raise BadRow("nobody voted: all vote columns are 0", reason="no votes")
        yield from ((self._maker.voter(n), p) for n, p in enumerate(ps, 1))


class KTOForm:
    """A row is one task of one candidate."""

    def __init__(self, options: KTOOptions, maker: Maker, manager: PluginManager) -> None:
        self._maker = maker
        self._format = _data_format("labelled", {f"{key}_field": name for key, name in options}, manager)

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task."""
        for record in _records(self._format, source):
            assert isinstance(record, LabelledCompletion)
            candidates = self._maker.candidates(record.prompt, [single_answer(record.completion, "completion")])
            task = self._maker.task(record.prompt, candidates)
            payload = Binary(candidate=candidates[0].id, good=record.label)
            yield Item(task, [self._maker.judgement(task, payload)], Counter())


def _data_format(name: str, options: dict[str, str], manager: PluginManager) -> DataFormat:
    registered = manager.get("data_format", name)
    config = validated(registered.component.config, options, Lines("command line"))
    found: DataFormat = registered.build(config, None)
    return found


def _records(form: DataFormat, source: SourceRow) -> Iterator[Record]:
    return (record for _, record in form.records([source]))


def _probability(found: Any, column: str) -> float:
    p = number(found, f"column {column!r}")
    if not 0 <= p <= 1:
        raise BadRow(f"column {column!r} is {p:g}, not a probability", reason="wrong probability")
    return p


def _count(row: dict[str, Any], column: str) -> int:
    count = number(value(row, column), f"column {column!r}")
    if count < 0 or count != int(count) or count > 10_000:
        raise BadRow(f"column {column!r} is {count:g}, not a number of votes", reason="wrong votes")
    return int(count)
