"""Remembers records by 8 bytes of their hash: to find equal ones, and votes that contradict each other."""

import hashlib
from array import array

from alignkit.records import Content, LabelledCompletion, Message, PreferencePair, Record


class Marks:
    """A set of 64-bit numbers in a table of 8 bytes a place, of which a third to two thirds are in use.

    That is a sixth of what a Python set of integers takes.
    """

    def __init__(self) -> None:
        self._places = array("Q", bytes(8 * 1024))
        self._count = 0

    def __contains__(self, mark: int) -> bool:
        return self._places[self._place_of(mark or 1)] != 0

    def add(self, mark: int) -> bool:
        """Whether it was there before."""
        place = self._place_of(mark or 1)
        if self._places[place]:
            return True
        self._places[place] = mark or 1  # 0 is an empty place
        self._count += 1
        if self._count * 3 > len(self._places) * 2:
            self._grow()
        return False

    def _place_of(self, mark: int) -> int:
        places, last = self._places, len(self._places) - 1
        place = mark & last
        while places[place] and places[place] != mark:
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        before = self._places
        self._places = array("Q", bytes(8)) * (2 * len(before))
        for mark in before:
            if mark:
                self._places[self._place_of(mark)] = mark


class Seen:
    """Knows which records came before: by 12 to 24 bytes each, whatever their length; pairs and labels count twice.

    Among a million records, two different ones have the same hash with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._records = Marks()
        self._votes = Marks()

    def before(self, part: str, record: Record) -> bool:
        """Whether an equal record of this part was asked about before."""
        return self._records.add(_mark(f"{part}\n{record.model_dump_json()}"))

    def contradicted(self, record: Record) -> bool:
        """Whether the opposite was said before: of a pair the other way round, of a label the other one. No ties."""
        found = _vote(record)
        if found is None:
            return False
        vote, opposite = found
        self._votes.add(_mark(vote))
        return _mark(opposite) in self._votes


def only_white_space(record: Record) -> bool:
    """Whether the sides of a pair are equal but for white space at their end."""
    if not isinstance(record, PreferencePair):
        return False
    chosen, rejected = record.chosen, record.rejected
    if isinstance(chosen, str) or isinstance(rejected, str):
        return isinstance(chosen, str) and isinstance(rejected, str) and chosen.rstrip() == rejected.rstrip()
    return _stripped(chosen) == _stripped(rejected)


def _stripped(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content.rstrip()) for turn in turns]


def _vote(record: Record) -> tuple[str, str] | None:
    """What a record says, and what would contradict it."""
    if isinstance(record, LabelledCompletion):
        about = f"{record.prompt!r} {record.completion!r}"
        return f"{about} {record.label}", f"{about} {not record.label}"
    if not isinstance(record, PreferencePair) or record.p == 0.5:
        return None
    sides: tuple[Content, Content] = (record.chosen, record.rejected)
    better, worse = sides if record.p > 0.5 else sides[::-1]
    return f"{record.prompt!r} {better!r} {worse!r}", f"{record.prompt!r} {worse!r} {better!r}"


def _mark(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
