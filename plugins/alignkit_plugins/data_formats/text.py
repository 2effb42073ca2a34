"""Documents for language-model pretraining, from plain text or from one column."""

from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any, Literal

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Text
from alignkit_plugins.data_formats import columns
from alignkit_plugins.data_formats.known import KnownColumns

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
    joins_rows = True

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._columns = KnownColumns(config.text_field)
        # One buffer, not a list: five million lines of two letters would take twenty times their length.
        self._text = StringIO()
        self._lines = 0
        self._first = ""
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
            self._add(source.row, source.where)  # before the yield, from which the reader may not come back
            yield from documents
        yield from self._taken()

    def notes(self) -> dict[str, Any]:
        """For the summary: columns that were not read."""
        return self._columns.notes()

    def _taken(self) -> list[tuple[str, Text]]:
        """The document that the lines make, if there are any; none are left."""
        found = [("texts", Text(text=self._text.getvalue()))] if self._lines else []
        self._text, self._lines = StringIO(), 0
        return found

    def _add(self, line: str, where: str) -> None:
        """Keep a line that is not blank. Raises BadRow, and forgets the lines, where they have grown too many."""
        if not line.strip():
            return
        if self._lines:
            self._text.write("\n")
        else:
            self._first = where
        self._text.write(line)
        self._lines += 1
        if self._text.tell() > MAX_CHARACTERS:
            lost = self._lines
            self._text, self._lines = StringIO(), 0
            raise BadRow(
                f"no empty line in the {MAX_CHARACTERS // 1024**2} Mi characters from {self._first} to here, "
                "all left out; set separator: line",
                reason="document too long",
                rows=lost,
            )

    def _of_column(self, source: SourceRow) -> Text:
        name = self._config.text_field
        found = columns.filled(self._columns.row(source), name)
        if not isinstance(found, str):
            raise BadRow(f"column {name!r} is a list of messages, not text", reason="wrong type")
        return Text(text=found)
