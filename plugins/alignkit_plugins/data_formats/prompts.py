"""Prompts alone, also taken from rows that have an answer."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.protocols import SourceRow
from alignkit.records import Content, Prompt
from alignkit_plugins.data_formats import columns
from alignkit_plugins.data_formats.demonstrations import chat
from alignkit_plugins.data_formats.known import KnownColumns


class PromptsConfig(Config):
    """Options of the `prompts` format."""

    prompt_field: str = Field("prompt", description="column with the prompt: text or messages")
    messages_field: str = Field(
        "messages",
        description="column with a chat, for rows without the prompt column; a last answer is left out",
    )


class PromptsFormat:
    """Rows {prompt} or {messages} become ("prompts", Prompt); other columns are counted."""

    generates = False

    def __init__(self, config: PromptsConfig) -> None:
        self._config = config
        self._columns = KnownColumns(config.prompt_field, config.messages_field)

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Prompt]]:
        """One prompt a row."""
        for source in rows:
            prompt = self._prompt(self._columns.row(source))
            columns.check_filled(prompt, "prompt")
            yield "prompts", Prompt(prompt=prompt)

    def notes(self) -> dict[str, Any]:
        """For the summary: columns that were not read."""
        return self._columns.notes()

    def _prompt(self, row: dict[str, object]) -> Content:
        name, chat_name = self._config.prompt_field, self._config.messages_field
        if name in row or chat_name not in row:
            return columns.content(row, name)
        turns = chat(row, chat_name)
        return turns[:-1] if turns[-1].role == "assistant" else turns
