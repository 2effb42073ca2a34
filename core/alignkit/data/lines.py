"""Lines of plain or gzipped files, as text or as JSON objects, read piecewise: memory does not grow with the file."""

import codecs
import gzip
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

from alignkit.data.kinds import BROKEN_GZIP, GZIP, NO_UTF8, START_BYTES, gzip_problem, wrong_kind, wrong_layout
from alignkit.data.rows import SHOWN_CHARACTERS, BadRow, parse_object, shown
from alignkit.errors import UserError
from alignkit.protocols import SourceRow

MAX_BYTES = 16 * 1024 * 1024
CHUNK = 1024 * 1024
LAYOUT_BYTES = 64 * 1024
# Four bytes a character, and one character more than is shown: that it was cut can be seen.
SHOWN_BYTES = 4 * (SHOWN_CHARACTERS + 1)


class _Line(NamedTuple):
    text: str
    ended: bool = True


def text_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    """Every line of a text file, empty ones included, without its line end."""
    for number, line in enumerate(_lines(path), 1):
        yield line if isinstance(line, BadRow) else SourceRow(f"{path}:{number}", line.text)


def json_line_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    """One JSON object a line. Blank lines are ignored at the end of the file and bad rows before."""
    blank = 0  # a number, not a list: a small gzip file may hold a billion of them
    first = True
    for number, line in enumerate(_lines(path), 1):
        if isinstance(line, _Line) and not line.text.strip():
            blank += 1
            continue
        if blank:
            problem = "a blank line between rows" if blank == 1 else f"{blank} blank lines between rows"
            yield BadRow(problem, where=f"{path}:{number - blank}", reason="blank line", row="", rows=blank)
            blank = 0
        if isinstance(line, BadRow):
            yield line
            continue
        where = f"{path}:{number}"
        layout = wrong_layout(_start(path)) if first else None
        first = False
        if layout is not None:
            yield _of_file(layout, path)
            return
        try:
            yield SourceRow(where, parse_object(line.text))
        except BadRow as bad:
            bad.where = where
            if bad.reason == "bad JSON" and not line.ended and not line.text.rstrip().endswith("}"):
                bad.problem += "; the last line has no end: the file seems cut off"
            if bad.reason == "not an object" and line.text.lstrip().startswith("[{"):
                bad.problem += "; an array of rows belongs in a file whose name ends with .json"
            yield bad


def is_array(path: Path) -> bool:
    """Whether the first thing in a JSON file is `[`."""
    with opened(path) as file:
        try:
            # read1: of a damaged file, what can be unpacked. A mebibyte of white space is no array.
            begin = b""
            while not begin.strip() and len(begin) < CHUNK and (piece := file.read1(CHUNK)):
                begin = (begin + piece).removeprefix(codecs.BOM_UTF8)
            return begin.lstrip()[:1] == b"["
        except BROKEN_GZIP:
            return False  # the reader of lines reports it with its place
        except OSError as error:
            raise unreadable(path, error) from None


def opened(path: Path) -> BufferedIOBase:
    """The file's bytes, unpacked if its name ends with .gz. Raises UserError if it cannot be opened."""
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> UserError:
    """What the system says about a file."""
    return UserError(f"cannot read the file: {error.strerror or error}", where=path, hint="look at it and at the disk")


def misnamed(path: Path) -> BadRow | None:
    """A complaint about the whole file if its first bytes are those of something else than its name says."""
    problem, start = None, b""
    try:
        if path.suffix == ".gz":
            with path.open("rb") as raw:
                magic = raw.read(len(GZIP))
            if not magic:
                problem = "the gzip file is empty: it was cut off"
            elif magic != GZIP[: len(magic)]:
                problem = "this is no gzip file: take .gz off its name"
        if problem is None:
            with opened(path) as file:
                start = file.read(START_BYTES)
            problem = wrong_kind(start)
    except BROKEN_GZIP:
        return None  # reported by whoever reads on, with its place
    except OSError as error:
        raise unreadable(path, error) from None
    if problem is None:
        return None
    return _of_file(problem, path)


def _start(path: Path) -> str:
    """The beginning of a text."""
    with opened(path) as file:
        try:
            return file.read1(LAYOUT_BYTES).removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
        except BROKEN_GZIP:
            return ""  # reported by whoever reads on, with its place
        except OSError as error:
            raise unreadable(path, error) from None


def _of_file(problem: str, path: Path) -> BadRow:
    said = f"{problem}; none of its rows is read"
    return BadRow(said, where=f"{path}:1", reason="wrong kind of file", ends_file=True)


def damaged(where: str, error: Exception) -> BadRow:
    """The end of a gzip file that is cut off or otherwise broken at `where`."""
    return BadRow(gzip_problem(error), where=where, reason="damaged gzip", ends_file=True)


def _lines(path: Path) -> Iterator[_Line | BadRow]:
    """Every line, or what is wrong with it: one of the two for each."""
    wrong = misnamed(path)
    if wrong is not None:
        yield wrong
        return
    number = 0
    with opened(path) as file:
        while True:
            number += 1
            try:
                raw = file.readline(MAX_BYTES + 1)
                if not raw:
                    return
                too_long = len(raw) > MAX_BYTES and not raw.endswith(b"\n")
                if too_long:
                    raw = raw[:SHOWN_BYTES]
                    _skip_line(file)
            except BROKEN_GZIP as error:
                yield damaged(f"{path}:{number}", error)
                return
            except OSError as error:
                raise unreadable(path, error) from None
            if too_long:
                problem = f"a line is longer than {MAX_BYTES // 1024**2} MiB"
                yield BadRow(problem, where=f"{path}:{number}", reason="line too long", row=_preview(raw))
            else:
                yield _decoded(path, number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)


def _skip_line(file: BufferedIOBase) -> None:
    while True:
        piece = file.readline(CHUNK)
        if not piece or piece.endswith(b"\n"):
            return


def _preview(raw: bytes) -> str:
    return shown(raw[:SHOWN_BYTES].decode("utf-8", "backslashreplace"))


def _decoded(path: Path, number: int, raw: bytes) -> _Line | BadRow:
    if raw == b"\n":
        return _Line("")
    if b"\0" in raw:
        problem = f"a NUL byte at column {raw.index(0) + 1}: is this a text file in UTF-8?"
        reason = "NUL character"
    elif raw.startswith(codecs.BOM_UTF8):
        problem = "a byte order mark inside the file: were two files joined?"
        reason = "byte order mark"
    else:
        try:
            ended = raw.endswith(b"\n")
            return _Line(raw.decode("utf-8").removesuffix("\n").removesuffix("\r"), ended)
        except UnicodeDecodeError as error:
            problem = f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}; {NO_UTF8}"
            reason = "not UTF-8"
    return BadRow(problem, where=f"{path}:{number}", reason=reason, row=_preview(raw))
