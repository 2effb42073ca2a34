"""For every check of data formats a mistake that it has to notice."""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from alignkit import Component
from alignkit.components import NoConfig
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Demonstration, Prompt, Text
from alignkit.testing import DataFormatContract
from helpers.planted import Fault, checks_of, planted, plugin_of

GOOD = ({"body": "the quiet film"}, {"body": "a long thriller"}, {"body": "families"})
BAD = ({"text": "a"}, {"body": 3}, {"body": ""}, "the quiet film")


class Sound:
    """One text a row; each fault changes one thing."""

    generates: Any = False

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for source in rows:
            yield "texts", Text(text=self.text(source.row))

    def text(self, row: Any) -> str:
        found = row.get("body") if isinstance(row, dict) else None
        if not isinstance(found, str) or not found:
            raise BadRow("column 'body' must be a text with something in it")
        return found


class SaysNothing(Sound):
    generates = "no"


class RefusesLongTexts(Sound):
    def text(self, row: Any) -> str:
        if len(super().text(row)) > 14:
            raise BadRow("too long")
        return super().text(row)


class FirstRowIsAHeader(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        next(iter(rows), None)
        yield from super().records(rows)


class NothingGenerated(Sound):
    generates = True


class OtherPart(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for _, record in super().records(rows):
            yield "documents", record


class OtherRecord(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for _, record in super().records(rows):
            yield "prompts", record


class NotValidated(Sound):
    """`model_construct` skips what pydantic would see."""

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for source in rows:
            yield "prompts", Prompt.model_construct(prompt=[self.text(source.row)], id="")


class BytesForText(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for _, record in super().records(rows):
            yield "demonstrations", Demonstration.model_construct(prompt=record.text, completion=b"no text")


class Draws(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for source in rows:
            words = self.text(source.row).split()
            cut = random.random()
            yield "demonstrations", Demonstration(prompt=words[0], completion=f" {cut}")


class Seeds(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        random.seed(0)
        yield from super().records(rows)


class Sorts(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        yield from sorted(super().records(rows), key=lambda found: found[1].text)


class ReadsAll(Sound):
    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for source in list(rows):
            yield "texts", Text(text=self.text(source.row))


class TakesOut(Sound):
    def text(self, row: Any) -> str:
        found = super().text(row)
        row.pop("body")
        return found


class Skips(Sound):
    """Bad rows are left out, and nobody is told."""

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        for source in rows:
            try:
                yield "texts", Text(text=self.text(source.row))
            except BadRow:
                continue


class NoWords(Sound):
    def text(self, row: Any) -> str:
        try:
            return super().text(row)
        except BadRow:
            raise BadRow(" ") from None


class PairsRows(Sound):
    """Remembers the row before in the generator, which is dead after a bad row."""

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        before = ""
        for source in rows:
            text = self.text(source.row)
            yield "demonstrations", Demonstration(prompt=before, completion=text)
            before = text


class HidesDamage(Sound):
    """Takes every exception for the end of the file."""

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        source = iter(rows)
        while True:
            try:
                row = next(source).row
            except (StopIteration, ValueError):
                return
            yield "texts", Text(text=self.text(row))


class LateByOne(Sound):
    """Gives a record away when it has read the next row; what waits is lost with the generator."""

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Any]]:
        waiting: tuple[str, Any] | None = None
        for found in super().records(rows):
            if waiting is not None:
                yield waiting
            waiting = found
        if waiting is not None:
            yield waiting


class TrustsRows(Sound):
    def text(self, row: Any) -> str:
        found: str = row["body"].strip()
        if not found:
            raise BadRow("'body' is empty")
        return found


def fault(check: str, build: Callable[[], Any], name: str = "", **more: Any) -> Fault:
    rows = {"good_rows": GOOD, "bad_rows": BAD, **more}
    return Fault(check, Component("broken", lambda c, _: build(), NoConfig, "broken on purpose"), rows, name)


FAULTS = (
    fault("test_says_whether_it_generates", SaysNothing),
    fault("test_good_rows_give_records", RefusesLongTexts),
    fault("test_good_rows_give_records", FirstRowIsAHeader, "header"),
    fault("test_good_rows_give_records", Skips, "none", good_rows=({"text": "a"}, {"text": "b"})),
    fault("test_generates_without_rows", NothingGenerated),
    fault("test_parts_and_records_are_known", OtherPart, "part"),
    fault("test_parts_and_records_are_known", OtherRecord, "type"),
    fault("test_records_survive_json", NotValidated, "list"),
    fault("test_records_survive_json", BytesForText, "bytes"),
    fault("test_same_each_time", Draws),
    fault("test_global_random_state_is_left_alone", Seeds),
    fault("test_order_of_rows_is_kept", Sorts),
    fault("test_rows_are_read_as_they_are_needed", ReadsAll),
    fault("test_rows_are_not_changed", TakesOut),
    fault("test_bad_rows_are_refused", Skips, "silent"),
    fault("test_bad_rows_are_refused", NoWords, "wordless"),
    fault("test_reading_goes_on_behind_a_bad_row", PairsRows),
    fault("test_a_bad_row_of_the_source_passes", HidesDamage, "hidden"),
    fault("test_a_bad_row_of_the_source_passes", LateByOne, "lost"),
    fault("test_odd_rows_raise_nothing_else", TrustsRows),
)
globals().update(planted(DataFormatContract, FAULTS))


class TestSound(DataFormatContract):
    """What the faults are made of has none."""

    component = "sound"
    good_rows = GOOD
    bad_rows = BAD
    plugin = plugin_of(DataFormatContract, Component("sound", lambda c, _: Sound(), NoConfig, "one text a row"))
    # Made in memory, so that no process can import it.
    test_registration_imports_nothing_heavy = None


def test_every_check_has_a_fault() -> None:
    assert checks_of(DataFormatContract) == {f.check for f in FAULTS}
