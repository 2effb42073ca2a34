"""Preference pairs in the four forms that TRL reads: with or without a prompt column, texts or messages."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Content, Demonstration, Message, PreferencePair, Record
from alignkit_plugins.data_formats import columns
from alignkit_plugins.data_formats.known import KnownColumns


class PreferenceConfig(Config):
    """Options of the `preference` format."""

    prompt_field: str | None = Field(
        "prompt",
        description="column with the prompt; where rows lack it, or with null, the prompt is what chosen and "
        "rejected have in common at the start",
    )
    chosen_field: str = Field("chosen", description="column with the preferred text or messages")
    rejected_field: str = Field("rejected", description="column with the other text or messages")
    margin_field: str | None = Field(
        "margin", description="column with the strength of the preference, if rows have it"
    )
    votes_for: str | None = Field(None, description="column with the number of votes for chosen (soft label)")
    votes_against: str | None = Field(None, description="column with the number of votes for rejected")
    votes_tied: str | None = Field(None, description="column with the number of votes for neither; half to each")
    also_demonstrations: bool = Field(False, description="give the chosen answers to the part `demonstrations` too")
    also_prompts: bool = Field(False, description="give each different prompt to the part `prompts` too")


class PreferenceFormat:
    """Rows {prompt?, chosen, rejected, margin?} become ("preferences", PreferencePair)."""

    generates = False

    def __init__(self, config: PreferenceConfig) -> None:
        self._config = config
        self._prompts = columns.NewPrompts()
        votes = (config.votes_for, config.votes_against, config.votes_tied)
        optional = (config.prompt_field, config.margin_field)
        self._columns = KnownColumns(config.chosen_field, config.rejected_field, *votes, optional=optional)
        # Form of the first row and its place: a file that changes its form half-way was joined by mistake.
        self._form: tuple[str, str] | None = None
        self._forms: Counter[str] = Counter()

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        """One pair a row."""
        for source in rows:
            row = self._columns.row(source)
            prompt, chosen, rejected = self._texts(row, source.where)
            yield (
                "preferences",
                PreferencePair(
                    prompt=prompt, chosen=chosen, rejected=rejected, p=self._p(row), margin=self._margin(row)
                ),
            )
            if self._config.also_demonstrations:
                yield "demonstrations", Demonstration(prompt=prompt, completion=chosen)
            if self._config.also_prompts:
                yield from self._prompts.of(prompt)

    def notes(self) -> dict[str, Any]:
        """For the summary: columns that were not read."""
        return {**self._columns.notes(), **self._prompts.notes()}

    def _texts(self, row: dict[str, Any], where: str) -> tuple[Content, Content, Content]:
        names = self._config.chosen_field, self._config.rejected_field
        chosen, rejected = (columns.filled(row, name) for name in names)
        columns.same_form(chosen, rejected, " and ".join(map(repr, names)))
        if chosen == rejected:
            raise BadRow(f"{names[0]!r} and {names[1]!r} are equal", reason="equal pair")
        explicit = self._config.prompt_field is not None and self._config.prompt_field in row
        self._check_form(("explicit" if explicit else "implicit", type(chosen) is str), where)
        if not explicit:
            return _split(chosen, rejected)
        assert self._config.prompt_field is not None
        prompt = columns.content(row, self._config.prompt_field)
        columns.same_form(prompt, chosen, f"{self._config.prompt_field!r} and {names[0]!r}")
        if not isinstance(prompt, str):
            columns.check_filled(prompt, "prompt")
        return prompt, chosen, rejected

    def _check_form(self, form: tuple[str, bool], where: str) -> None:
        name = f"{form[0]} prompt, {'texts' if form[1] else 'messages'}"
        self._forms[name] += 1
        if self._form is None:
            self._form = (name, where)
        elif self._form[0] != name:
            before, first = self._form
            more = "; most rows so far are like this one" if self._forms[name] > self._forms[before] else ""
            raise BadRow(
                f"mixed forms: this row has {name}, the first row ({first}) has {before}{more}", reason="mixed forms"
            )

    def _margin(self, row: dict[str, Any]) -> float:
        name = self._config.margin_field
        return columns.number(row, name) if name is not None and row.get(name) is not None else 0.0

    def _p(self, row: dict[str, Any]) -> float:
        """Share of the votes that chosen got, ties counted half; 1 without vote columns."""
        names = (self._config.votes_for, self._config.votes_against, self._config.votes_tied)
        if not any(names):
            return 1.0
        votes = [columns.number(row, name) if name else 0.0 for name in names]
        for name, count in zip(names, votes, strict=True):
            if count < 0:
                raise BadRow(f"column {name!r} is {count:g}, a number of votes is not negative", reason="wrong votes")
        if not sum(votes):
            raise BadRow(f"no votes: {', '.join(repr(n) for n in names if n)} are all 0", reason="wrong votes")
        return (votes[0] + votes[2] / 2) / sum(votes)


def _split(chosen: Content, rejected: Content) -> tuple[Content, Content, Content]:
    """Prompt, chosen and rejected of an implicit pair. Raises BadRow when nothing is left to compare."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = common_text(chosen, rejected)
        parts: tuple[Content, Content, Content] = (chosen[:cut], chosen[cut:], rejected[cut:])
    else:
        assert not isinstance(chosen, str)
        assert not isinstance(rejected, str)
        cut = common_messages(chosen, rejected)
        parts = (chosen[:cut], chosen[cut:], rejected[cut:])
        columns.check_filled(parts[0], "prompt")
    columns.check_filled(parts[1], "chosen")
    columns.check_filled(parts[2], "rejected")
    return parts


def common_messages(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """How many messages at the start are equal."""
    pairs = zip(chosen, rejected, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))


def common_text(chosen: str, rejected: str) -> int:
    """Length of the common start, cut back so that both rests begin with white space.

    Tokenizers join a space to the word behind it: a cut inside a word, or behind the space, would make tokens
    that no text has. Without white space the common start is empty.
    """
    shorter = min(len(chosen), len(rejected))
    cut = next((n for n in range(shorter) if chosen[n] != rejected[n]), shorter)
    if cut < shorter and chosen[cut].isspace() and rejected[cut].isspace():
        return cut
    # `cut` itself is no boundary: one rest begins inside a word, or is empty.
    while cut > 0 and not chosen[cut - 1].isspace():
        cut -= 1
    while cut > 0 and chosen[cut - 1].isspace():
        cut -= 1
    return cut
