"""What became of every row and record of a `data` step: two sums that have to add up.

    rows    = rows_with_record + rows_without_own_record + rejected - rejected_later
    records = parts + heldout + left_out_by_split + PART_without_prompt + duplicates_left_out + over_limit

`records` are those of the format and of earlier steps together. The sides are counted in different places: what is
taken and what the format does with it by the reader, bad rows where they are written, records where they are placed.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from alignkit.context import HELDOUT, PARTS
from alignkit.data.reading import TakenRows
from alignkit.data.rows import BadRow
from alignkit.errors import UserError
from alignkit.protocols import SourceRow

# Places of files that could not be read to their end, in the summary.
_NAMED_FILES = 20


@dataclass
class Tally:
    """Counts of one run of the step."""

    made: int = 0
    """Records that the format gave."""
    added: int = 0
    """Records of earlier steps."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Bad rows by reason."""
    unread: list[str] = field(default_factory=list)
    """Places behind which a file could not be read."""
    lost: list[str] = field(default_factory=list)
    """Files of which nothing could be read."""
    without_prompt: Counter[str] = field(default_factory=Counter)
    """Records that have no side, by part."""
    white_space: int = 0
    """Pairs whose sides differ by white space at their end only."""
    duplicates: int = 0
    duplicates_left_out: int = 0
    contradictions: int = 0
    left_out_by_split: int = 0
    over_limit: int = 0

    def reject(self, bad: BadRow, last: SourceRow | None) -> None:
        """Count a bad row, or the several that it stands for; `last` is the last row that could be read."""
        self.rejected[bad.reason] += bad.rows
        if not bad.ends_file:
            return
        self.unread.append(str(bad.where))
        file = _file_of(str(bad.where))
        if last is None or _file_of(last.where) != file:
            self.lost.append(file)

    @property
    def unread_in_part(self) -> list[str]:
        """Places in files of which something could be read."""
        return [place for place in self.unread if _file_of(place) not in self.lost]

    def check(self, rows: TakenRows, written: Counter[str], name: str) -> None:
        """Every row and record has become something, once. Raises UserError for a format that hides bad rows."""
        rows.close()
        rejected = self.rejected.total()
        if rejected < rows.refused:
            raise UserError(
                f"the data format passed over {rows.refused - rejected} bad rows without a word",
                where=f"format {name}",
                hint="tell its author: BadRow is to be let through",
            )
        assert rows.count == rows.used + rows.silent + rows.refused, (rows.count, rows.used, rows.silent, rows.refused)
        assert rejected == rows.refused + rows.refused_later, (rejected, rows.refused, rows.refused_later)
        left_out = self.left_out_by_split + self.duplicates_left_out + self.over_limit + self.without_prompt.total()
        placed = written.total() + left_out
        assert self.made + self.added == placed, (self.made, self.added, placed)

    def summary(self, rows: TakenRows, written: Counter[str], generates: bool) -> dict[str, Any]:
        """The step's part of the summary. A format that generates takes no rows: its records are its rows."""
        found: dict[str, Any] = {
            "rows": self.made if generates else rows.count,
            "rejected": self.rejected.total(),
            "rejected_by_reason": dict(self.rejected.most_common()),
            "rows_with_record": self.made if generates else rows.used,
            "records": self.made + self.added,
            "duplicates": self.duplicates,
            "left_out_by_split": self.left_out_by_split,
            "parts": {part: written[part] for part in PARTS if written[part]},
            "heldout": {part: written[HELDOUT + part] for part in PARTS if written[HELDOUT + part]},
        }
        rare = {
            "rows_without_own_record": rows.silent,
            "rejected_later": rows.refused_later,
            "records_of_earlier_steps": self.added,
            "duplicates_left_out": self.duplicates_left_out,
            "contradictions": self.contradictions,
            **{f"{part}_without_prompt": count for part, count in self.without_prompt.items()},
            "over_limit": self.over_limit,
            "rejected_share": round(self.rejected.total() / max(1, rows.count), 4),
            "pairs_that_differ_by_white_space_at_the_end": self.white_space,
            "left_out_unread_files": self.unread[:_NAMED_FILES],
            "left_out_lost_files": self.lost[:_NAMED_FILES],
        }
        return found | {name: value for name, value in rare.items() if value}


def _file_of(place: str) -> str:
    return place.rpartition(":")[0]
