"""Prompts with the answer to imitate: two columns, or a chat whose last turn is the answer."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Demonstration, Message, Record
from alignkit_plugins.data_formats import columns
from alignkit_plugins.data_formats.known import KnownColumns


class PromptCompletionConfig(Config):
    """Options of the `prompt_completion` format."""

    prompt_field: str = Field("prompt", description="column with the prompt: text or messages")
    completion_field: str = Field("completion", description="column with the completion: text or messages")
    also_prompts: bool = Field(False, description="give each different prompt to the part `prompts` too")


class PromptCompletionFormat:
    """Rows {prompt, completion} become ("demonstrations", Demonstration)."""

    generates = False

    def __init__(self, config: PromptCompletionConfig) -> None:
        self._config = config
        self._prompts = columns.NewPrompts()
        self._columns = KnownColumns(config.prompt_field, config.completion_field)

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        """One demonstration a row."""
        names = (self._config.prompt_field, self._config.completion_field)
        for source in rows:
            row = self._columns.row(source)
            prompt, completion = (columns.filled(row, name) for name in names)
            columns.same_form(prompt, completion, " and ".join(map(repr, names)))
            yield "demonstrations", Demonstration(prompt=prompt, completion=completion)
            if self._config.also_prompts:
                yield from self._prompts.of(prompt)

    def notes(self) -> dict[str, Any]:
        """For the summary: columns that were not read."""
        return {**self._columns.notes(), **self._prompts.notes()}


class MessagesConfig(Config):
    """Options of the `messages` format."""

    messages_field: str = Field("messages", description="column with the list of messages")
    also_prompts: bool = Field(False, description="give each different prompt to the part `prompts` too")


class MessagesFormat:
    """Rows {messages: [{role, content}, …]} become ("demonstrations", Demonstration)."""

    generates = False

    def __init__(self, config: MessagesConfig) -> None:
        self._config = config
        self._prompts = columns.NewPrompts()
        self._columns = KnownColumns(config.messages_field)

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        """One demonstration a row: the last turn is the completion, what stands before it the prompt."""
        for source in rows:
            turns = chat(self._columns.row(source), self._config.messages_field)
            if turns[-1].role != "assistant":
                problem = f"the last message has the role {turns[-1].role!r}, a demonstration ends with 'assistant'"
                raise BadRow(problem, reason="no answer at the end")
            columns.check_filled(turns[-1:], "completion")
            columns.check_filled(turns[:-1], "prompt")
            yield "demonstrations", Demonstration(prompt=turns[:-1], completion=turns[-1:])
            if self._config.also_prompts:
                yield from self._prompts.of(turns[:-1])

    def notes(self) -> dict[str, Any]:
        """For the summary: columns that were not read."""
        return {**self._columns.notes(), **self._prompts.notes()}


def chat(row: dict[str, object], column: str) -> tuple[Message, ...]:
    """A column that holds at least one message."""
    turns = columns.content(row, column)
    if isinstance(turns, str):
        raise BadRow(f"column {column!r} is a text, not a list of messages", reason="wrong type")
    if not turns:
        raise BadRow(f"column {column!r} is an empty list", reason=f"empty {column}")
    return turns
