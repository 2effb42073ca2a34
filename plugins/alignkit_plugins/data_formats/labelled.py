"""Completions labelled good or bad, each for itself: TRL's unpaired preferences."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.protocols import SourceRow
from alignkit.records import Demonstration, LabelledCompletion, Record
from alignkit_plugins.data_formats import columns
from alignkit_plugins.data_formats.known import KnownColumns


class LabelledConfig(Config):
    """Options of the `labelled` format."""

    prompt_field: str = Field("prompt", description="column with the prompt: text or messages")
    completion_field: str = Field("completion", description="column with the completion: text or messages")
    label_field: str = Field("label", description="column with true (good) or false (bad)")
    also_demonstrations: bool = Field(False, description="give the good completions to the part `demonstrations` too")
    also_prompts: bool = Field(False, description="give each different prompt to the part `prompts` too")


class LabelledFormat:
    """Rows {prompt, completion, label} become ("labels", LabelledCompletion)."""

    generates = False

    def __init__(self, config: LabelledConfig) -> None:
        self._config = config
        self._prompts = columns.NewPrompts()
        self._columns = KnownColumns(config.prompt_field, config.completion_field, config.label_field)

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        """One labelled completion a row."""
        names = (self._config.prompt_field, self._config.completion_field)
        for source in rows:
            row = self._columns.row(source)
            prompt, completion = columns.content(row, names[0]), columns.filled(row, names[1])
            columns.same_form(prompt, completion, " and ".join(map(repr, names)))
            if not isinstance(prompt, str):
                columns.check_filled(prompt, "prompt")
            label = columns.boolean(row, self._config.label_field)
            yield "labels", LabelledCompletion(prompt=prompt, completion=completion, label=label)
            if label and self._config.also_demonstrations:
                yield "demonstrations", Demonstration(prompt=prompt, completion=completion)
            if self._config.also_prompts:
                yield from self._prompts.of(prompt)

    def notes(self) -> dict[str, Any]:
        """For the summary: columns that were not read."""
        return {**self._columns.notes(), **self._prompts.notes()}
