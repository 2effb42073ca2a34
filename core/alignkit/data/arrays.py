"""The objects of a JSON array in a file, one in memory at a time."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from alignkit.data.kinds import BROKEN_GZIP, NO_UTF8
from alignkit.data.lines import CHUNK, MAX_BYTES, SHOWN_BYTES, damaged, opened, unreadable
from alignkit.data.rows import LONG, BadRow, check_values, json_problem, parse_object, shown
from alignkit.protocols import SourceRow

_BLANK = re.compile(r"[ \t\r\n]*")
# What a byte that is not UTF-8 becomes, so that only the row that holds it is lost.
_ESCAPED = re.compile("[\udc80-\udcff]")
_LOST = "; the rows from here on are lost"


def json_array_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    """The objects of a JSON array. Behind broken syntax nothing can be read: the complaint ends the file."""
    window = _Window(path)
    try:
        window.take("[")
        if window.peek() == "]":
            window.take("]")
        else:
            yield from _elements(window)
        if window.peek():
            raise window.broken("more text behind the array")
    except BadRow as bad:
        bad.where = bad.where or f"{path}:{window.line}"
        yield bad
    finally:
        window.close()


def _elements(window: "_Window") -> Iterator[SourceRow | BadRow]:
    while True:
        window.peek()
        where = f"{window.path}:{window.line}"
        text = window.value()
        try:
            # Parsed a second time with the strict rules; the first time only found the end of the value.
            yield SourceRow(where, _parsed(text))
        except BadRow as bad:
            bad.where = where
            yield bad
        if window.peek() == "]":
            window.take("]")
            return
        window.take(",")


def _parsed(text: str) -> dict[str, object]:
    escaped = None if text.isascii() else _ESCAPED.search(text)
    if escaped is not None:
        problem = f"not UTF-8: byte 0x{ord(escaped[0]) - 0xDC00:02x}; {NO_UTF8}"
        raise BadRow(problem, reason="not UTF-8", row=shown(_escaped(text[:SHOWN_BYTES])))
    return parse_object(text)


def _escaped(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Window:
    """The part of a JSON file that is being parsed, and the line it begins on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        self._file = opened(path)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text = ""
        self._at = 0
        self._ended = False
        self._error: BadRow | None = None
        # Finds where a value ends; what it makes of it is thrown away.
        self._json = json.JSONDecoder(object_pairs_hook=lambda pairs: None, parse_int=lambda digits: None)

    def close(self) -> None:
        self._file.close()

    def peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            assert blank is not None
            self._drop(blank.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Go behind `character`, or say that it is missing."""
        found = self.peek()
        if found != character:
            raise self.broken(f"expected {character!r}, found {found or 'the end of the file'!r}")
        self._drop(self._at + 1)

    def value(self) -> str:
        """The text of the next JSON value."""
        while True:
            try:
                _, end = self._json.raw_decode(self._text, self._at)
                # A number at the end of the window may go on behind it.
                if end < len(self._text) or self._ended:
                    return self._drop(end)
                problem = ""
            except json.JSONDecodeError as error:
                problem = json_problem(error)
                # Broken here and not only cut off by the end of the window: no need to read on.
                if not problem.startswith("Unterminated") and error.pos < len(self._text) - len("-Infinity"):
                    raise self.broken(problem) from None
            except RecursionError:
                raise self.broken("nested too deeply", "nested too deeply") from None
            self._check_size()
            if not self._more() and problem:
                raise self.broken(problem)

    def _check_size(self) -> None:
        """All of the window belongs to one value: may it still grow?"""
        held = self._text[self._at :]
        if len(held) > MAX_BYTES:
            raise self.broken(f"a value is longer than {MAX_BYTES // 1024**2} MiB, or its end is missing")
        if len(held) >= LONG:
            try:
                check_values(held)
            except BadRow as bad:
                raise self.broken(bad.problem, bad.reason) from None

    def broken(self, problem: str, reason: str = "bad JSON") -> BadRow:
        """The complaint that ends the file."""
        said = f"not valid JSON: {problem}{_LOST}" if reason == "bad JSON" else f"{problem}{_LOST}"
        row = shown(_escaped(self._text[self._at : self._at + SHOWN_BYTES]))
        return BadRow(said, reason=reason, row=row, ends_file=True)

    def _drop(self, end: int) -> str:
        gone = self._text[self._at : end]
        self._at = end
        self.line += gone.count("\n")
        return gone

    def _more(self) -> bool:
        """Read on. Damage is said only when all that stands before it was used."""
        if self._error is not None:
            self._error.where = f"{self.path}:{self.line}"
            raise self._error
        if self._ended:
            return False
        pieces: list[bytes] = []
        size = 0
        try:
            while size < CHUNK and not self._ended:
                # read1: damage behind what can be unpacked must not take that along.
                piece = self._file.read1(CHUNK)
                self._ended = not piece
                pieces.append(piece)
                size += len(piece)
        except BROKEN_GZIP as error:
            self._error = damaged("", error)
        except OSError as error:
            raise unreadable(self.path, error) from None
        self._text = self._text[self._at :] + self._decode.decode(b"".join(pieces), final=self._ended)
        self._at = 0
        return True
