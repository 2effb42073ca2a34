"""The rows that are looked at: spread evenly over the file, the same ones each time."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from alignkit.data.store import RecordFile
from alignkit.preflight.finding import place
from alignkit.preflight.folder import ModelFacts
from alignkit.records import Content, Demonstration, LabelledCompletion, PreferencePair, Record

# Rows that are encoded, and rows that are only read and compared.
ENCODED, READ = 200, 5000
# Beside a preview that is not the whole.
INCOMPLETE = ".incomplete"
# A share of rows above this is worth a warning.
NOTABLE = 0.01


class Sample(NamedTuple):
    """Rows of a file with their line numbers. `path` is "" for rows that stand in no file.

    `complete` is False for a preview of a longer file: `total` is then not known to be all.
    """

    rows: Sequence[tuple[int, Record]]
    total: int
    path: str
    complete: bool = True

    @classmethod
    def of(cls, file: RecordFile[Any], limit: int) -> Self:
        """At most `limit` rows of `file`."""
        total = len(file)
        indices = range(total) if total <= limit else [i * total // limit for i in range(limit)]
        complete = not (file.path.parent / INCOMPLETE).exists()
        return cls([(i + 1, file[i]) for i in indices], total, place(file.path), complete)

    def at_most(self, limit: int) -> "Sample":
        """A smaller sample of the same file."""
        if len(self.rows) <= limit:
            return self
        return self._replace(rows=[self.rows[i * len(self.rows) // limit] for i in range(limit)])

    def counted(self, count: int) -> str:
        """`3 of 200 rows looked at (of 12,000)`."""
        or_more = "" if self.complete else " or more"
        partly = self.total > len(self.rows) or not self.complete
        of_all = f" looked at (of {self.total:,}{or_more})" if partly else ""
        return f"{count} of {len(self.rows)} {'row' if len(self.rows) == 1 else 'rows'}{of_all}"

    def line(self, number: int) -> str:
        """`FILE:LINE`."""
        return f"{self.path}:{number}"


class DataView(NamedTuple):
    """What a data stage is shown of its data: rows of both halves, and the model that it starts from.

    `model` is None for one that is not there yet, or is no folder on this disk.
    """

    model: ModelFacts | None
    data: Sample
    eval_data: Sample | None

    @property
    def max_positions(self) -> int | None:
        """Of the model, as far as it is known."""
        return None if self.model is None else self.model.max_positions


def sides(record: Record) -> list[tuple[Content, Content]]:
    """Prompt and completion of everything that a record would be trained on."""
    if isinstance(record, PreferencePair):
        return [(record.prompt, record.chosen), (record.prompt, record.rejected)]
    if isinstance(record, Demonstration | LabelledCompletion):
        return [(record.prompt, record.completion)]
    return []
