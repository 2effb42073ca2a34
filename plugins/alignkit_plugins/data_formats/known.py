"""The columns that a format reads, and what it does about others: nothing a row holds is passed over unsaid."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from alignkit.data.rows import BadRow, brief
from alignkit.protocols import SourceRow
from alignkit_plugins.data_formats.columns import row_object

logger = logging.getLogger("alignkit")

# Rows may each have names of their own; so many are counted by name.
_COUNTED = 50
_OTHERS = "(other columns)"


class KnownColumns:
    """Counts the columns that are not read, and refuses a row in which one seems to be a known one misspelt."""

    def __init__(self, *names: str | None, optional: Iterable[str | None] = ()) -> None:
        """`optional`: those that a row may lack. That a required one is missing, the format finds out itself."""
        self._optional = [name for name in optional if name is not None]
        self._names = [name for name in (*names, *self._optional) if name is not None]
        self._known = frozenset(self._names)
        self._unread: Counter[str] = Counter()

    def row(self, source: SourceRow) -> dict[str, Any]:
        """The row as a dict. Raises BadRow for plain text, and for `promt` in a row without the column `prompt`."""
        row = row_object(source)
        if not row.keys() <= self._known:
            extra = [name for name, value in row.items() if name not in self._known and value is not None]
            for name in extra[:_COUNTED]:
                self._check(name, row, source.where)
            for name in extra:
                counted = name if len(self._unread) < _COUNTED or name in self._unread else _OTHERS
                self._unread[counted[:60]] += 1
        return row

    def _check(self, name: str, row: dict[str, Any], where: str) -> None:
        meant = next((known for known in self._names if nearly_equal(name, known)), None)
        if meant is None:
            return
        if meant in self._optional and row.get(meant) is None:
            raise BadRow(
                f"column {brief(name)} is not read, and {meant!r} is missing: is it a misspelling?",
                reason="misspelt column",
            )
        if meant in row and name[:60] not in self._unread:
            logger.warning("%s: column %s is not read beside %r: is it a misspelling?", where, brief(name), meant)

    def notes(self) -> dict[str, Any]:
        """For the summary: how many rows had columns that are not read."""
        return {"columns_not_read": dict(self._unread.most_common())} if self._unread else {}


def nearly_equal(name: str, known: str) -> bool:
    """Whether two names differ in case, white space or one typing mistake: a letter too many, too few, wrong, swapped.

    Names of fewer than four letters are too short to tell.
    """
    a, b = _plain(name[:100]), _plain(known)
    if a == b:
        return True
    if min(len(a), len(b)) < 4 or abs(len(a) - len(b)) > 1:
        return False
    return b in _mistakes(a, b) or a in _mistakes(b, a)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _mistakes(name: str, other: str) -> Iterable[str]:
    """`name` with one letter left out, exchanged for that of `other`, or swapped with its neighbour."""
    for n in range(len(name)):
        yield name[:n] + name[n + 1 :]
        yield name[:n] + other[n : n + 1] + name[n + 1 :]
        yield name[:n] + name[n + 1 : n + 2] + name[n : n + 1] + name[n + 2 :]
