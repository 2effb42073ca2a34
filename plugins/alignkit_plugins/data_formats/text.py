"""Documents for language-model pretraining, from plain text or from one column."""

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Text
from alignkit_plugins.data_formats import columns

MAX_CHARACTERS = 16 * 1024 * 1024


class TextConfig(Config):
    """Options of the `text` format."""

    separator: Literal["line", "blank_line"] = Field(
        "blank_line", description="what ends a document in a .txt file: each line, or an empty line"
    )
    text_field: str = Field("text", description="column with the document in .jsonl and .parquet files")


class TextFormat:
    """Rows become ("texts", Text). A document never goes over the end of a file.

    The lines of a document that is not yet at its end are kept here: a bad row makes the reader call `records` again.
    """

    generates = False

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._lines: list[str] = []
        self._characters = 0
        self._file = ""

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Text]]:
        """Documents in the order of the rows."""
        for source in rows:
            if not isinstance(source.row, str):
                yield "texts", self._of_column(source)
                continue
            file = source.where.rpartition(":")[0]
            ends = not source.row.strip() or file != self._file or self._config.separator == "line"
            self._file = file
            documents = self._taken() if ends else []
            self._add(source.row)  # before the yield, from which the reader may not come back
            yield from documents
        yield from self._taken()

    def _taken(self) -> list[tuple[str, Text]]:
        """The document that the lines make, if there are any; none are left."""
        found = [("texts", Text(text="\n".join(self._lines)))] if self._lines else []
        self._lines, self._characters = [], 0
        return found

    def _add(self, line: str) -> None:
        """Keep a line that is not blank. Raises BadRow, and forgets the lines, where they have grown too many."""
        if not line.strip():
            return
        self._characters += len(line) + bool(self._lines)
        self._lines.append(line)
        if self._characters > MAX_CHARACTERS:
            self._taken()
            raise BadRow(
                f"no empty line in the {MAX_CHARACTERS // 1024**2} Mi characters before; set separator: line",
                reason="document too long",
            )

    def _of_column(self, source: SourceRow) -> Text:
        name = self._config.text_field
        found = columns.filled(columns.row_object(source), name)
        if not isinstance(found, str):
            raise BadRow(f"column {name!r} is a list of messages, not text", reason="wrong type")
        return Text(text=found)
