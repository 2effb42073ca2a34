"""Lines and JSON values of plain or gzipped files, read piecewise: memory does not grow with the file."""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from alignkit.data.rows import BadRow, checked_object, parse_object, shown
from alignkit.errors import UserError
from alignkit.protocols import SourceRow

MAX_BYTES = 16 * 1024 * 1024
_CHUNK = 1024 * 1024
_BLANK = re.compile(r"[ \t\r\n]*")
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


class _Line(NamedTuple):
    number: int
    text: str


def text_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    """Every line of a text file, empty ones included, without its line end."""
    for line in _lines(path):
        if isinstance(line, BadRow):
            yield line
        else:
            yield SourceRow(f"{path}:{line.number}", line.text)


def json_line_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    """One JSON object a line. Blank lines are ignored at the end of the file and bad rows before."""
    blank: list[int] = []
    for line in _lines(path):
        if isinstance(line, BadRow):
            yield line
            continue
        if not line.text.strip():
            blank.append(line.number)
            continue
        for number in blank:
            yield BadRow("a blank line between rows", where=f"{path}:{number}", reason="blank line", row="")
        blank.clear()
        where = f"{path}:{line.number}"
        try:
            yield SourceRow(where, parse_object(line.text))
        except BadRow as bad:
            bad.where = where
            yield bad


def is_array(path: Path) -> bool:
    """Whether the first thing in a JSON file is `[`."""
    with _opened(path) as file:
        try:
            return file.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        except _BROKEN_GZIP:
            return False  # the reader of lines reports it with its place


def _opened(path: Path) -> IO[bytes]:
    try:
        return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read the file: {error.strerror}", where=path) from None


def _broken(path: Path, number: int, error: Exception) -> BadRow:
    problem = "the gzip file is cut off" if isinstance(error, EOFError) else f"the gzip file is damaged ({error})"
    return BadRow(f"{problem}; the rows from here on are lost", where=f"{path}:{number}", reason="damaged gzip")


def _lines(path: Path) -> Iterator[_Line | BadRow]:
    number = 0
    with _opened(path) as file:
        while True:
            number += 1
            try:
                raw = file.readline(MAX_BYTES + 1)
                if not raw:
                    return
                if len(raw) > MAX_BYTES and not raw.endswith(b"\n"):
                    _skip_line(file)
                    raw = raw[:MAX_BYTES] + b"\n\n"  # two line ends never come out of readline: marks a cut line
            except _BROKEN_GZIP as error:
                yield _broken(path, number, error)
                return
            yield _decoded(path, number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)


def _skip_line(file: IO[bytes]) -> None:
    while True:
        piece = file.readline(_CHUNK)
        if not piece or piece.endswith(b"\n"):
            return


def _decoded(path: Path, number: int, raw: bytes) -> _Line | BadRow:
    where = f"{path}:{number}"
    preview = shown(raw[:4000].decode("utf-8", "backslashreplace"))
    if raw.endswith(b"\n\n"):
        problem = f"a line is longer than {MAX_BYTES // 1024**2} MiB"
        return BadRow(problem, where=where, reason="line too long", row=preview)
    if b"\0" in raw:
        problem = f"a NUL byte at column {raw.index(0) + 1}: is this a text file in UTF-8?"
        return BadRow(problem, where=where, reason="NUL character", row=preview)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        return BadRow(problem, where=where, reason="not UTF-8", row=preview)
    return _Line(number, text.removesuffix("\n").removesuffix("\r"))


def json_array_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    """The objects of a JSON array, one in memory at a time. Behind broken syntax nothing can be read."""
    window = _Window(path)
    try:
        window.take("[")
        if window.peek() == "]":
            window.take("]")
        else:
            yield from _elements(window)
        if window.peek():
            raise BadRow("not valid JSON: more text behind the array", reason="bad JSON")
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
            yield SourceRow(where, parse_object(text))
        except BadRow as bad:
            bad.where = where
            yield bad
        if window.peek() == "]":
            window.take("]")
            return
        window.take(",")


class _Window:
    """The part of a JSON file that is being parsed, and the line it begins on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        self._file = _opened(path)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._json = json.JSONDecoder()

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
            if not self._more(_CHUNK):
                return ""

    def take(self, character: str) -> None:
        """Go behind `character`, or say that it is missing."""
        found = self.peek()
        if found != character:
            problem = f"not valid JSON: expected {character!r}, found {found or 'the end of the file'!r}"
            raise BadRow(problem, reason="bad JSON", row=self._shown())
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
            except (ValueError, RecursionError) as error:
                problem = getattr(error, "msg", str(error))
            held = len(self._text) - self._at
            if held > MAX_BYTES:
                problem = f"a value is longer than {MAX_BYTES // 1024**2} MiB, or broken: {problem}"
            # Doubling keeps the time linear although a long value is parsed again from its start.
            elif self._more(max(_CHUNK, held)) or not problem:
                continue
            raise BadRow(f"not valid JSON: {problem}", reason="bad JSON", row=self._shown())

    def _shown(self) -> str:
        return shown(self._text[self._at : self._at + 4000])

    def _drop(self, end: int) -> str:
        gone = self._text[self._at : end]
        self._at = end
        self.line += gone.count("\n")
        return gone

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        try:
            data = self._file.read(size)
            self._ended = not data
            self._text = self._text[self._at :] + self._decode.decode(data, final=self._ended)
            self._at = 0
        except _BROKEN_GZIP as error:
            raise _broken(self.path, self.line + self._text.count("\n", self._at), error) from None
        except UnicodeDecodeError as error:
            line = self.line + self._text.count("\n", self._at) + data[: error.start].count(b"\n")
            raise BadRow("not UTF-8", where=f"{self.path}:{line}", reason="not UTF-8") from None
        return True


def checked(where: str, row: Any) -> SourceRow | BadRow:
    """A row that another library read, or what is wrong with it."""
    try:
        return SourceRow(where, checked_object(row))
    except BadRow as bad:
        bad.where = where
        return bad
