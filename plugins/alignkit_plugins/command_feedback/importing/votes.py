"""Columns with several people's or models' votes on one pair, or ratings of one text."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.data.sources import read_rows
from alignkit.errors import UserError
from alignkit.protocols import SourceRow
from alignkit.records import Evidence, Judgement, Pairwise, Rating, Task
from alignkit_plugins.command_feedback.importing.items import (
    Item,
    Maker,
    apart,
    number,
    on_scale,
    row_object,
    text,
    value,
)

LABELS = {
    **dict.fromkeys(("1", "a", "a1", "first", "left", "a-is-better"), 1.0),
    **dict.fromkeys(("2", "b", "a2", "second", "right", "b-is-better"), 0.0),
    **dict.fromkeys(("0", "tie", "equal"), 0.5),
    "a-is-slightly-better": 0.75,
    "b-is-slightly-better": 0.25,
}


class VotesOptions(Config):
    """Options of `votes`: two texts and who preferred which.

    The votes of a row are one label, a list of labels, an object {voter: label} or a list of objects. A label that is a
    list of two is one judge's answer with the texts in the given and in the other order, both said of the given one.
    """

    prompt: str = Field(
        "prompt", description="column with the prompt; several, comma between, are joined by blank lines"
    )
    first: str = Field("first", description="column with the first text, or its id in `texts`")
    second: str = Field("second", description="column with the second text, or its id in `texts`")
    votes: str = Field("votes", description="column with the votes")
    values: dict[str, float] = Field(
        LABELS,
        description="label -> probability that the first text is better, labels compared as lower-case text; default: "
        "1, a, a1, first, left, a-is-better: 1; 2, b, a2, second, right, b-is-better: 0; 0, tie, equal: 0.5; "
        "a-is-slightly-better: 0.75, b-is-slightly-better: 0.25",
    )
    voter: str = Field("rater", description="key of the voter, where votes are a list of objects")
    vote: str = Field("preference", description="key of the label there")
    texts: str | None = Field(None, description="file with the texts, for rows that name them by id")
    texts_id: str = Field("id", description="column of the id in that file")
    texts_text: str = Field("text", description="column of the text in that file")


class RatingsOptions(Config):
    """Options of `ratings`: one text and the numbers people gave it."""

    prompt: str | None = Field(None, description="column with the prompt; none: an empty prompt")
    text: str = Field("text", description="column with the rated text")
    ratings: str = Field("ratings", description="column with one number, a list of numbers or {rater: number}")
    low: float = Field(1.0, description="the lower end of the scale")
    high: float = Field(5.0, description="the upper end of the scale")


class _Vote(NamedTuple):
    who: str | None
    label: Any


class VotesForm:
    """A row is one task of two candidates, in the given order."""

    def __init__(self, options: VotesOptions, maker: Maker) -> None:
        self._options = options
        self._maker = maker
        self._seen = Counter[str]()
        self._values = {label.strip().lower(): p for label, p in options.values.items()}
        if any(not 0 <= p <= 1 for p in self._values.values()):
            raise UserError("values are probabilities, 0 to 1", where="values")
        self._texts = _texts(options) if options.texts is not None else None
        self._labels: set[str] = set()

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task."""
        options, row = self._options, row_object(source)
        prompt = _joined(row, options.prompt)
        texts = [self._text(row, column) for column in (options.first, options.second)]
        task = apart(self._maker.task(prompt, self._maker.candidates(prompt, texts)), self._seen)
        votes = list(_votes(value(row, options.votes), options, self._maker))
        if not votes:
            raise BadRow(f"column {options.votes!r} has no vote", reason="no votes")
        yield Item(task, [self._judged(task, vote) for vote in votes], Counter())

    def finish(self) -> None:
        """Labels that are all 0 or 1 are yes and no in one file, ties and firsts in another: the user has to say."""
        if "0" in self._labels <= {"0", "1"} and "values" not in self._options.model_fields_set:
            raise UserError(
                f"column {self._options.votes!r} has no other labels than {' and '.join(sorted(self._labels))}, "
                "which may mean several things",
                where="values",
                hint="-o values='{1: 1, 0: 0}' if 1 is a vote for the first text and 0 one for the second; "
                "-o values='{1: 1, 0: 0.5}' if 0 is a tie",
            )

    def _text(self, row: dict[str, Any], column: str) -> str:
        if self._texts is None:
            return text(row, column)
        id = str(value(row, column))
        if id not in self._texts:
            raise BadRow(f"column {column!r}: no text with the id {id!r}", reason="unknown text")
        return self._texts[id]

    def _judged(self, task: Task, vote: _Vote) -> Judgement:
        a, b = (candidate.id for candidate in task.candidates)
        if isinstance(vote.label, list | tuple):
            if len(vote.label) != 2:
                raise BadRow(
                    f"{len(vote.label)} answers of one judge; two are those of both orders", reason="wrong vote"
                )
            given, swapped = (None if label is None else self._p(label) for label in vote.label)
            if given is None or swapped is None:
                return self._maker.no_answer(task, vote.who)
            evidence = Evidence(p_given=given, p_swapped=swapped)
            payload = Pairwise(a=a, b=b, p_a=(given + swapped) / 2)
            return self._maker.judgement(task, payload, vote.who, evidence=evidence)
        if vote.label is None:
            return self._maker.no_answer(task, vote.who)
        return self._maker.judgement(task, Pairwise(a=a, b=b, p_a=self._p(vote.label)), vote.who)

    def _p(self, label: Any) -> float:
        name = str(label).strip().lower()
        if not isinstance(label, str | int | float) or name not in self._values:
            raise BadRow(f"unknown label {label!r}; known: {', '.join(self._values)}", reason="unknown label")
        self._labels.add(name)
        return self._values[name]


class RatingsForm:
    """A row is one task of one candidate."""

    def __init__(self, options: RatingsOptions, maker: Maker) -> None:
        if options.low >= options.high:
            raise UserError("low must be below high", where="low")
        self._options = options
        self._maker = maker
        self._seen = Counter[str]()

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task; null is somebody who gave no rating."""
        options, row = self._options, row_object(source)
        prompt = text(row, options.prompt) if options.prompt else ""
        candidates = self._maker.candidates(prompt, [text(row, options.text)])
        task = apart(self._maker.task(prompt, candidates), self._seen)
        judgements = []
        for who, found in _named(value(row, options.ratings), self._maker):
            if found is None:
                judgements.append(self._maker.no_answer(task, who))
                continue
            name = f"column {options.ratings!r}"
            rating = on_scale(number(found, name), options.low, options.high, name)
            payload = Rating(candidate=task.candidates[0].id, value=rating, low=options.low, high=options.high)
            judgements.append(self._maker.judgement(task, payload, who))
        if not judgements:
            raise BadRow(f"column {options.ratings!r} has no rating", reason="no ratings")
        yield Item(task, judgements, Counter())


def _joined(row: dict[str, Any], columns: str) -> str:
    found = [text(row, column.strip()) for column in columns.split(",") if column.strip()]
    return "\n\n".join(part for part in found if part)


def _texts(options: VotesOptions) -> dict[str, str]:
    assert options.texts is not None
    try:
        rows = [row_object(source) for source in read_rows(str(Path(options.texts).expanduser()))]
        return {str(value(row, options.texts_id)): text(row, options.texts_text) for row in rows}
    except BadRow as bad:
        raise UserError(bad.problem, where=bad.where or options.texts) from None


def _votes(found: Any, options: VotesOptions, maker: Maker) -> Iterator[_Vote]:
    if isinstance(found, list) and found and all(isinstance(vote, dict) for vote in found):
        for vote in found:
            if options.vote not in vote:
                problem = f"a vote has no {options.vote!r}; it has {', '.join(map(repr, vote))}"
                raise BadRow(problem, reason="missing column")
            yield _Vote(str(value(vote, options.voter)), vote[options.vote])
        return
    yield from (_Vote(who, label) for who, label in _named(found, maker))


def _named(found: Any, maker: Maker) -> Iterator[tuple[str | None, Any]]:
    """(voter, what he said) of one value, a list, or an object by voter."""
    if isinstance(found, dict):
        yield from ((str(who), said) for who, said in found.items())
    elif isinstance(found, list | tuple):
        yield from ((maker.voter(n), said) for n, said in enumerate(found, 1))
    else:
        yield None, found
