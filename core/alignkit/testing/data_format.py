"""What a form of data owes the step that reads it."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pytest

from alignkit.components import Kind
from alignkit.context import HELDOUT, PARTS
from alignkit.data.reading import TakenRows, read_with
from alignkit.data.rows import BadRow, Rows
from alignkit.errors import UserError
from alignkit.manager import Registered
from alignkit.protocols import DataFormat, SourceRow
from alignkit.records import Record
from alignkit.testing.contract import ComponentContract
from alignkit.testing.randomness import assert_unused, global_seed, global_states

Found = tuple[str, Record]
LONG = "word " * 40_000
ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**400, 0.5, math.nan, math.inf, "", " ", "a", "né 漢字 🙂", "\ud800", "a\0b", LONG,
    [], [None], [[]], [{}], [{"role": "user", "content": None}], {}, {"": None},
)  # fmt: skip


class Reading(NamedTuple):
    """What came of a source: the records, and the rows that could not be used."""

    records: list[Found]
    bad: list[BadRow]


def placed(rows: Iterable[Any]) -> TakenRows:
    """Rows with places; a BadRow among them is raised, as by a damaged file."""
    places = (row if isinstance(row, BadRow) else SourceRow(f"rows.jsonl:{n}", row) for n, row in enumerate(rows, 1))
    return TakenRows(Rows(places))


def read(data_format: DataFormat, rows: Iterable[Any]) -> Reading:
    """Read to the end as steps do: behind a bad row `records` is called again on the rows that are left.

    A record that pydantic refuses is a bad row too; any other exception passes. Fails the test where a format
    complains without end.
    """
    found = Reading([], [])
    try:
        found.records.extend(read_with(data_format, placed(rows), found.bad.append))
    except UserError as endless:
        pytest.fail(str(endless), pytrace=False)
    return found


class DataFormatContract(ComponentContract):
    """The checks of data formats. They are about the format's own rows: give some in `good_rows`."""

    kind: ClassVar[Kind] = "data_format"
    good_rows: ClassVar[Sequence[Any]]
    """Rows that the format reads, at least two: JSON objects as dicts, or lines of a text file."""
    bad_rows: ClassVar[Sequence[Any]] = ()
    """Rows that it must refuse: a key that is missing, a value of the wrong type, an empty text."""
    row_by_row: ClassVar[bool] = True
    """False for a format that has to see all rows before its first record, such as one that draws pairs."""
    joins_rows: ClassVar[bool] = False
    """True for a format that makes one record of several rows, such as lines of a paragraph."""
    look_ahead: ClassVar[int] = 100
    """How many rows it may read from one record to the next."""

    @pytest.fixture
    def make(self, registered: Registered, config: Any, context: Any) -> Callable[[], DataFormat]:
        """Builds a new object of the format: it may remember rows, for example to give each prompt once."""
        return lambda: registered.build(config, context)

    @pytest.fixture
    def rows(self, built: DataFormat) -> list[Any]:
        """A copy of `good_rows`. Formats that generate their rows have no business with them."""
        if built.generates:
            pytest.skip("it generates its rows")
        rows = copy.deepcopy(list(self.good_rows))
        assert len(rows) >= 2, "give at least two good_rows"
        return rows

    def all_records(self, data_format: DataFormat) -> list[Found]:
        """The records of the good rows, or those that the format generates."""
        return read(data_format, () if data_format.generates else copy.deepcopy(list(self.good_rows))).records

    def test_says_whether_it_generates(self, built: DataFormat) -> None:
        """The step asks for sources only where `generates` is False."""
        assert isinstance(built.generates, bool), f"generates is {built.generates!r}, not True or False"

    def test_good_rows_give_records(self, make: Callable[[], DataFormat], rows: list[Any]) -> None:
        """What the format is for: every row of its own form is read."""
        found = read(make(), copy.deepcopy(rows))
        assert found.bad == [], f"a good row was refused: {found.bad[0] if found.bad else ''}"
        assert found.records, "the good rows give no record"
        if self.row_by_row and not self.joins_rows:
            for row in rows:
                assert read(make(), [copy.deepcopy(row)]).records, f"{_short(row)} by itself gives no record"

    def test_generates_without_rows(self, make: Callable[[], DataFormat]) -> None:
        """A format that makes its own rows gets none, and makes at least one record."""
        if not make().generates:
            pytest.skip("it reads rows")
        assert read(make(), ()).records, "it generated no record"

    def test_parts_and_records_are_known(self, make: Callable[[], DataFormat]) -> None:
        """Steps find records by the part that they stand in, and each part holds one type of record."""
        for part, record in self.all_records(make()):
            assert part.removeprefix(HELDOUT) in PARTS, f"part {part!r}; parts are {', '.join(PARTS)}"
            expected = PARTS[part.removeprefix(HELDOUT)]
            assert isinstance(record, expected), f"a {type(record).__name__} in {part}, which holds {expected.__name__}"

    def test_records_survive_json(self, make: Callable[[], DataFormat]) -> None:
        """Records are kept as JSON in UTF-8: written and read back they are the same."""
        for part, record in self.all_records(make()):
            try:
                again = type(record).model_validate_json(record.model_dump_json(warnings="error").encode())
            except ValueError as error:  # pydantic's errors, and that of a text that is no UTF-8
                pytest.fail(f"{part}: {record!r} cannot be written and read back: {error}", pytrace=False)
            assert again == record, f"{part}: {record!r} comes back as {again!r}"

    def test_same_each_time(self, make: Callable[[], DataFormat]) -> None:
        """A run is repeated by its seed and files: equal rows give equal records, whatever was drawn elsewhere."""
        results = []
        for seed in (0, 1):
            with global_seed(seed):
                results.append(self.all_records(make()))
        assert results[0] == results[1], "the same rows twice give different records"

    def test_global_random_state_is_left_alone(self, make: Callable[[], DataFormat]) -> None:
        """Who draws from the global generators changes what everybody else draws: take a generator of one's own."""
        before = global_states()
        self.all_records(make())
        assert_unused(before)

    def test_order_of_rows_is_kept(self, make: Callable[[], DataFormat], rows: list[Any]) -> None:
        """Records come in the order of their rows, so that people find a record's row and a seed's shuffle is one."""
        if self.joins_rows or not self.row_by_row:
            pytest.skip("its records are not made of one row each")
        whole = read(make(), rows).records
        for count in range(1, len(rows)):
            beginning = read(make(), rows[:count]).records
            assert whole[: len(beginning)] == beginning, f"the records of the first {count} rows do not come first"

    def test_rows_are_read_as_they_are_needed(self, make: Callable[[], DataFormat], rows: list[Any]) -> None:
        """Files are larger than memory: a record is given away before the rows behind it are read."""
        if not self.row_by_row:
            pytest.skip("it has to see all rows first")
        taken = 0

        def endless() -> Iterator[Any]:
            nonlocal taken
            for row in itertools.cycle(rows):
                taken += 1
                if taken > self.look_ahead:
                    pytest.fail(f"{self.look_ahead} rows were read without a record", pytrace=False)
                yield copy.deepcopy(row)

        records = make().records(placed(endless()))
        for _ in read(make(), rows).records:
            next(records)
            taken = 0

    def test_rows_are_not_changed(self, built: DataFormat, rows: list[Any]) -> None:
        """The reader shows a row as it stood in the file when it has to be rejected later."""
        before = copy.deepcopy(rows)
        read(built, rows)
        assert rows == before, "a row was changed in place: copy it first"

    def test_bad_rows_are_refused(self, make: Callable[[], DataFormat], rows: list[Any]) -> None:
        """A row that cannot be used raises `alignkit.data.rows.BadRow` with a sentence; skipping it would be silent."""
        if not self.bad_rows:
            pytest.skip("bad_rows is empty")
        for row in self.bad_rows:
            found = read(make(), [copy.deepcopy(row), *rows])
            assert len(found.bad) == 1, f"{_short(row)} gave {len(found.bad)} complaints, not one"
            assert found.bad[0].problem.strip(), f"{_short(row)} is refused without words"

    def test_reading_goes_on_behind_a_bad_row(self, make: Callable[[], DataFormat], rows: list[Any]) -> None:
        """One bad row of a million need not be the end: called again, `records` goes on where it stopped.

        A generator that has raised is dead; what a format remembers from row to row it keeps in itself.
        """
        if not self.bad_rows:
            pytest.skip("bad_rows is empty")
        expected = read(make(), rows).records
        for row in self.bad_rows:
            places = (0, len(rows)) if self.joins_rows else range(len(rows) + 1)
            for place in places:
                found = read(make(), [*rows[:place], copy.deepcopy(row), *rows[place:]]).records
                assert found == expected, f"other records than without the bad row {_short(row)} at place {place}"

    def test_a_bad_row_of_the_source_passes(self, make: Callable[[], DataFormat], rows: list[Any]) -> None:
        """Damaged lines raise BadRow while the format asks for the next row: it lets that through and loses nothing."""
        expected = read(make(), rows).records
        for place in range(len(rows) + 1):
            damaged = BadRow("not valid JSON", where=f"rows.jsonl:{place + 1}")
            found = read(make(), [*rows[:place], damaged, *rows[place:]])
            assert found.bad == [damaged], f"the reader's complaint at place {place} did not come through: {found.bad}"
            assert found.records == expected, f"a damaged line at place {place} cost or changed records"

    def test_odd_rows_raise_nothing_else(self, make: Callable[[], DataFormat], rows: list[Any]) -> None:
        """Whatever stands in a file, the user learns which row is wrong: records or BadRow, never another exception."""
        broken = []
        for row in odd_rows(rows):
            try:
                read(make(), [row, *copy.deepcopy(rows)])
            except Exception as error:
                broken.append(f"{_short(row)}: {type(error).__name__}: {_short(error)}")
        assert broken == [], "these rows need a BadRow:\n" + "\n".join(broken)


def odd_rows(rows: Sequence[Any]) -> Iterator[Any]:
    """Values of every type in place of a row, and good rows with a key left out, added or of another type."""
    yield from ODD_VALUES
    for row in rows:
        if isinstance(row, Mapping):
            yield {**row, "a key that nobody asked for": 1}
            for key in row:
                yield {other: value for other, value in row.items() if other != key}
                yield from ({**row, key: value} for value in ODD_VALUES)


def _short(value: Any) -> str:
    try:
        text = str(value) if isinstance(value, Exception) else ascii(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 120 else text[:120] + "…"
