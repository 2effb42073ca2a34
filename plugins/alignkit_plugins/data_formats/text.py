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
    """Rows become ("texts", Text). A document never goes over the end of a file."""

    generates = False

    def __init__(self, config: TextConfig) -> None:
        self._config = config

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Text]]:
        """Documents in the order of the rows."""
        lines: list[str] = []
        file, size = "", 0
        for source in rows:
            if not isinstance(source.row, str):
                yield "texts", self._of_column(source)
                continue
            before, file = file, source.where.rpartition(":")[0]
            blank = not source.row.strip()
            if lines and (blank or file != before or self._config.separator == "line"):
                yield "texts", Text(text="\n".join(lines))
                lines, size = [], 0
            if not blank:
                lines.append(source.row)
                size += len(source.row) + 1
            if size > MAX_CHARACTERS:
                raise BadRow(
                    f"no empty line in the {MAX_CHARACTERS // 1024**2} Mi characters before; set separator: line",
                    reason="document too long",
                )
        if lines:
            yield "texts", Text(text="\n".join(lines))

    def _of_column(self, source: SourceRow) -> Text:
        name = self._config.text_field
        found = columns.filled(columns.row_object(source), name)
        if not isinstance(found, str):
            raise BadRow(f"column {name!r} is a list of messages, not text", reason="wrong type")
        return Text(text=found)
