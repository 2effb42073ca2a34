"""Every row that a format takes has one outcome: used, refused, or silent."""

from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.reading import TakenRows, read_with
from alignkit.data.rows import BadRow, Rows
from alignkit.protocols import SourceRow


class Script:
    """A format that does what the row says; `late` names the rows that it complains about at the end."""

    generates = False

    def __init__(self, late: list[str]) -> None:
        self.late = late

    def records(self, rows: Iterable[SourceRow]) -> Iterator[Any]:
        for source in rows:
            for action in source.row:
                if action == "bad":
                    raise BadRow("bad")
                if action == "give":
                    yield source.where
        while self.late:
            raise BadRow("late", where=self.late.pop())


actions = st.lists(st.sampled_from(["give", "bad"]), max_size=3)
items = st.one_of(actions, st.integers(1, 5))


@given(st.lists(items, max_size=12), st.data())
def test_the_outcomes_add_up(items: list[Any], data: st.DataObject) -> None:
    """A list is what the format does with a row, a number the rows of one complaint of the reader."""
    found: list[SourceRow | BadRow] = []
    for n, item in enumerate(items):
        where = f"f:{n}"
        found.append(BadRow("x", where=where, rows=item) if isinstance(item, int) else SourceRow(where, item))
    places = [f.where for f in found if isinstance(f, SourceRow) and "bad" not in f.row]
    late = data.draw(st.lists(st.sampled_from(places), unique=True)) if places else []
    rows = TakenRows(Rows(iter(found)))
    bad: list[BadRow] = []
    given_records = list(read_with(Script(list(late)), rows, bad.append))

    reader = sum(item for item in items if isinstance(item, int))
    scripts = [item for item in items if not isinstance(item, int)]
    used = [s for s in scripts if s and s[0] == "give"]
    refused_at_once = [s for s in scripts if s and s[0] == "bad"]
    after_records = [s for s in used if "bad" in s]
    silent = [s for s in scripts if not s]
    late_silent = len(silent) - rows.silent  # which of them were silent, is not remembered
    late_used = [n for n, item in enumerate(items) if not isinstance(item, int) and item and f"f:{n}" in late]
    assert len(late) - len(late_used) <= late_silent <= len(late)
    assert rows.count == reader + len(scripts) == rows.used + rows.refused + rows.silent
    assert rows.used == len(used)
    assert rows.refused == reader + len(refused_at_once) + late_silent
    assert rows.refused_later == len(after_records) + len(late) - late_silent
    assert sum(b.rows for b in bad) == rows.refused + rows.refused_later
    assert len(given_records) == sum((s.index("bad") if "bad" in s else len(s)) for s in scripts)


def test_a_complaint_about_joined_rows_takes_them_from_the_silent_ones() -> None:
    class Joins:
        generates = False

        def records(self, rows: Iterable[SourceRow]) -> Iterator[Any]:
            for taken, _ in enumerate(rows, 1):
                if taken == 3:
                    raise BadRow("three at once", rows=3)
            yield "rest"

    rows = TakenRows(Rows(SourceRow(f"f:{n}", {}) for n in range(5)))
    bad: list[BadRow] = []
    assert list(read_with(Joins(), rows, bad.append)) == ["rest"]
    assert (rows.count, rows.used, rows.refused, rows.silent) == (5, 0, 3, 2)
    assert rows.first_silent == "f:0"
