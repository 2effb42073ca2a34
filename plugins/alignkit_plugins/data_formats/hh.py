r"""Transcripts of hh-rlhf (Bai et al. 2022): `\n\nHuman: …\n\nAssistant: …`, alike up to the last answer."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Demonstration, Message, PreferencePair, Record
from alignkit_plugins.data_formats import columns
from alignkit_plugins.data_formats.known import KnownColumns
from alignkit_plugins.data_formats.preference import common_messages

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class HHConfig(Config):
    """Options of the `hh` format."""

    chosen_field: str = Field("chosen", description="column with the preferred transcript")
    rejected_field: str = Field("rejected", description="column with the other transcript")
    also_demonstrations: bool = Field(False, description="give the chosen answers to the part `demonstrations` too")
    also_prompts: bool = Field(False, description="give each different context to the part `prompts` too")


class HHFormat:
    """Rows {chosen, rejected} of transcripts become ("preferences", PreferencePair) with messages."""

    generates = False

    def __init__(self, config: HHConfig) -> None:
        self._config = config
        self._prompts = columns.NewPrompts()
        self._columns = KnownColumns(config.chosen_field, config.rejected_field)

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        """One pair a row."""
        for source in rows:
            pair = self._pair(self._columns.row(source))
            yield "preferences", pair
            if self._config.also_demonstrations:
                yield "demonstrations", Demonstration(prompt=pair.prompt, completion=pair.chosen)
            if self._config.also_prompts:
                yield from self._prompts.of(pair.prompt)

    def notes(self) -> dict[str, Any]:
        """For the summary: columns that were not read."""
        return {**self._columns.notes(), **self._prompts.notes()}

    def _pair(self, row: dict[str, object]) -> PreferencePair:
        names = self._config.chosen_field, self._config.rejected_field
        chosen, rejected = (_transcript(row, name) for name in names)
        if chosen[:-1] != rejected[:-1]:
            turn = common_messages(chosen, rejected) + 1
            raise BadRow(
                f"the contexts of {names[0]!r} and {names[1]!r} differ before the last answer, from turn {turn} on",
                reason="different contexts",
            )
        if chosen == rejected:
            raise BadRow(f"{names[0]!r} and {names[1]!r} are equal", reason="equal pair")
        return PreferencePair(prompt=chosen[:-1], chosen=chosen[-1:], rejected=rejected[-1:])


def _transcript(row: dict[str, object], column: str) -> tuple[Message, ...]:
    text = columns.content(row, column)
    if not isinstance(text, str):
        raise BadRow(f"column {column!r} is a list of messages; format `preference` reads those", reason="wrong type")
    turns = parse_transcript(text)
    if not turns or turns[0].role != "user":
        raise BadRow(f"{column!r} does not begin with 'Human:'", reason="no transcript")
    if turns[-1].role != "assistant" or len(turns) < 2:
        raise BadRow(f"{column!r} does not end with an answer of 'Assistant:'", reason="no answer at the end")
    if not turns[-1].content:
        raise BadRow(f"the last answer of {column!r} is empty", reason="empty answer")
    return turns


def parse_transcript(text: str) -> tuple[Message, ...]:
    """The turns of a transcript, texts stripped; () when something stands before the first speaker."""
    before, *rest = _SPEAKER.split(text.strip())
    if before:
        return ()
    return tuple(
        Message(role=_ROLES[speaker], content=said.strip()) for speaker, said in zip(rest[::2], rest[1::2], strict=True)
    )
