"""What is said about bad rows: the first ones, how many there are and why, and what to do about them."""

from collections import Counter

from alignkit.data.rows import BadRow

SHOWN = 5
REASONS = 3
_STRICT_HINT = "mend the row, or set on_bad_row: skip"
_FILE_HINT = "rename, convert or mend the file: on_bad_row: skip would leave out all of it that cannot be read"
_NO_ROW_HINT = "no row can be used: is this the right format for the files, and do its options name their columns?"
MOST_HINT = "is this the right format for the files, and do its options name their columns? max_bad_share allows more"


class Complaints:
    """Counts bad rows by reason and keeps the first few."""

    def __init__(self) -> None:
        self.first: list[BadRow] = []
        self.reasons: Counter[str] = Counter()

    def add(self, bad: BadRow) -> None:
        """One more."""
        self.reasons[bad.reason] += bad.rows
        if len(self.first) < SHOWN:
            self.first.append(bad)

    @property
    def total(self) -> int:
        """How many rows are bad."""
        return self.reasons.total()

    def text(self) -> str:
        """The problem of the only one, or a list of the first ones and what the others are."""
        if len(self.first) == 1:
            return self.first[0].problem
        lines = [f"{bad.where}: {bad.problem}" for bad in self.first]
        more = self.total - sum(bad.rows for bad in self.first)
        if more:
            lines.append(f"… and {more:,} more (all: {reasons_text(self.reasons)})")
        return "\n  ".join([f"{self.total:,} bad rows", *lines])

    def hint(self, rows: int, used: bool, max_bad_share: float) -> str:
        """What to do about rows of which none should be bad; `used`: some row is not."""
        first = self.first[0]
        if first.ends_file or (used and self.total <= max_bad_share * rows):
            return strict_hint(first)
        return MOST_HINT if used else _NO_ROW_HINT


def strict_hint(bad: BadRow) -> str:
    """What to do about a bad row where none may be."""
    return _FILE_HINT if bad.ends_file else _STRICT_HINT


def reasons_text(reasons: Counter[str], limit: int | None = None) -> str:
    """`6 x missing column, 1 x equal pair`, the most frequent first."""
    return ", ".join(f"{n:,} x {reason}" for reason, n in reasons.most_common(limit))


def too_many(reasons: Counter[str], rows: int, max_bad_share: float) -> str | None:
    """The problem if more than the allowed share of the rows is bad."""
    bad = reasons.total()
    if bad <= max_bad_share * rows:
        return None
    why = reasons_text(reasons, REASONS)
    return f"too many bad rows: {share_text(bad, rows)}, and max_bad_share is {max_bad_share:g} ({why})"


def share_text(some: int, rows: int) -> str:
    """`300 of 301 rows (99.7 %)`."""
    return f"{some:,} of {counted(rows, 'row')} ({100 * some / rows:.3g} %)"


def counted(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
