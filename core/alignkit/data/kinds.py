"""What a file is by its first bytes, where its name says something else."""

import gzip
import re
import zlib

GZIP = b"\x1f\x8b"
START_BYTES = 16
NO_UTF8 = "if the file is in Latin-1 or Windows-1252, save it as UTF-8"
BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)

# The longer marks first: that of UTF-16 begins that of UTF-32.
_MARKS: tuple[tuple[bytes, str, str], ...] = (
    (GZIP, "a gzip file", "end its name with .gz"),
    (b"PAR1\x15", "a Parquet file", "end its name with .parquet"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file", "unpack it"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it"),
    (b"BZh91AY&SY", "a bzip2 file", "unpack it"),
    (b"\xff\xfe\x00\x00", "text in UTF-32", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
)


CONVERT = "convert it to one JSON object a line, as pandas does: to_json(…, orient='records', lines=True)"
_ARRAY = re.compile(r"\s*\[\s*\{")
_OBJECT = re.compile(r"\s*\{[ \t\r]*\n\s*\"")
# A line of names: no JSON begins with them.
_NAME = r"(?:\w[\w .-]*|\"\w[\w .-]*\")"
_TABLE = re.compile(rf"{_NAME}(?:[,;\t]{_NAME})+")


def wrong_kind(start: bytes) -> str | None:
    """What is wrong with a file that is meant to be text in UTF-8 and begins with `start`; None if nothing is."""
    return next((f"this is {kind}: {advice}" for mark, kind, advice in _MARKS if start.startswith(mark)), None)


def wrong_layout(start: str) -> str | None:
    """What is wrong with a file of one JSON object a line that begins with `start`; None if it may be one.

    Only layouts of which the first line is no object.
    """
    first, _, _ = start.strip().partition("\n")
    if _ARRAY.match(start) and not first.rstrip().endswith("]"):
        return "this is a JSON array: end its name with .json"
    if _OBJECT.match(start):
        return "this is JSON over several lines: write one object a line, or an array of them in a .json file"
    if _TABLE.fullmatch(first.rstrip()):
        return f"this looks like a table (CSV): {CONVERT}"
    return None


def gzip_problem(error: Exception) -> str:
    """What happened to a gzip file, for the message."""
    if isinstance(error, EOFError):
        return "the gzip file is cut off; the rows from here on are lost"
    # A wrong checksum shows at the end, behind rows that look whole.
    return f"the gzip file is damaged ({error}); the rows from here on are lost, and those before may be wrong"
