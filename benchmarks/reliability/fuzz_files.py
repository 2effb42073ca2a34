"""Files with known faults: how many rows each has, which are good, which lines are bad, whether it can be read whole.

A good row holds a mark that no other row has. So a reader that loses, doubles or alters one is found out without
another reader to compare with.
"""

import gzip
import lzma
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from fuzz_rows import BREAKING, FORMATS, HUGE, ODD, OWN, SYNTAX_KEPT, Row, dumped, mark

PIECES = (b"\0", b"\n", b'"', b"{", b"[", b"]", b"\xff", b"\\", b"\xef\xbb\xbf", b"\\ud800", b",")


@dataclass
class BadFile:
    """A file and the truth about it. `rows` is None where the file cannot be read to its end (`cut`)."""

    name: str
    data: bytes
    options: dict[str, Any]
    rows: int | None
    good: Counter[str] = field(default_factory=Counter)
    """Mark -> how often."""
    lines: dict[str, int] = field(default_factory=dict)
    """Mark -> its last line."""
    bad: dict[int, str] = field(default_factory=dict)
    """Line -> fault."""
    cut: bool = False
    exact: bool = True
    """Whether `good` and `bad` are known exactly; otherwise a marked row may be used or rejected, and not vanish."""


def generate(seed: int) -> BadFile:
    """One bad file."""
    rng = random.Random(f"file {seed}")
    name = rng.choice(list(FORMATS))
    container = rng.choices(("lines", "array", "parquet", "txt"), (6, 3, 1, 1))[0]
    if container == "parquet":
        return _parquet(rng)
    if container == "txt":
        return _txt(rng)
    return _json(rng, name, container == "array")


def _json(rng: random.Random, name: str, array: bool) -> BadFile:
    found = BadFile("", b"", {"format": name}, 0)
    faults = {**SYNTAX_KEPT, **OWN.get(name, {})} | ({} if array else BREAKING)
    many = rng.choice((1, 2, 5, 20, 100))
    if not array and rng.random() < 0.03:
        faults, many = HUGE, 5
    lines: list[bytes] = []
    offset = 2 if array else 1
    for number in range(many):
        row = FORMATS[name](mark(number))
        # The form of the first row is what the others are held against.
        if lines and rng.random() < 0.25:
            fault = rng.choice(list(faults))
            lines.append(faults[fault](row, rng))
            found.bad[len(lines) - 1 + offset] = fault
        elif lines and not array and rng.random() < 0.03:
            lines += [b"", b" \t"]
            found.bad |= {len(lines) - 2 + offset: "blank line", len(lines) - 1 + offset: "blank line"}
        else:
            odd = rng.choice(ODD) if len(lines) < 40 else ODD[0]
            for _ in range(2 if rng.random() < 0.05 else 1):
                lines.append(odd(row, rng))
                found.good[mark(number)] += 1
                found.lines[mark(number)] = len(lines) - 1 + offset
    if found.bad and max(found.bad) == len(lines) - 1 + offset and found.bad[max(found.bad)] == "blank line":
        lines.append(dumped(FORMATS[name](mark(9_000_000))))
        found.good[mark(9_000_000)] += 1
        found.lines[mark(9_000_000)] = len(lines) - 1 + offset
    found.rows = len(lines)
    if rng.random() < 0.2:
        found.options["drop_duplicates"] = True
    return _filed(found, lines, array, name, rng)


def _filed(found: BadFile, lines: list[bytes], array: bool, name: str, rng: random.Random) -> BadFile:
    ending = rng.choice((".json", ".jsonl")) if not array else ".json"
    if array:
        lines = _break_array(found, lines, name, rng)
        data = b"[\n" + b",\n".join(lines) + b"\n]"
        data += rng.choice((b"", b"\n", b" \n\n"))
        if not found.cut and rng.random() < 0.1:
            data += b"\n" + rng.choice((b"{}", b"]", b",", b"\xff"))
            found.bad[data.count(b"\n") + 1] = "text behind the array"
            found.rows = (found.rows or 0) + 1
            found.cut = True
    else:
        data = b"\n".join(lines) + rng.choice((b"", b"\n", b"\n\n \n"))
    if rng.random() < 0.1:
        data = b"\xef\xbb\xbf" + data
    found.name, found.data = f"x{ending}", data
    return _packed(found, rng)


def _break_array(found: BadFile, lines: list[bytes], name: str, rng: random.Random) -> list[bytes]:
    """Sometimes broken syntax, behind which nothing can be read."""
    if rng.random() > 0.3:
        return lines
    at = rng.randrange(len(lines))
    fault = rng.choice(list(BREAKING))
    broken = BREAKING[fault](FORMATS[name](mark(8_000_000)), rng)
    found.cut, found.rows, found.exact = True, None, False
    return [*lines[:at], broken, *lines[at:]]


def _packed(found: BadFile, rng: random.Random) -> BadFile:
    """Sometimes compressed, and sometimes wrongly: named, cut off, damaged, in another encoding."""
    way = rng.choices(
        ("plain", "gzip", "cut gzip", "flipped gzip", "tail", "no .gz", "no gzip", "utf-16", "xz", "zip", "nothing",
         "empty gzip", "two members"),
        (60, 12, 5, 3, 3, 2, 2, 2, 1, 1, 1, 1, 3),
    )[0]  # fmt: skip
    data = found.data
    if way == "plain":
        return found
    if way == "nothing":
        return BadFile(found.name, b"", found.options, 0)
    if way in ("no .gz", "xz", "zip", "utf-16"):
        pack: dict[str, Callable[[bytes], bytes]] = {"no .gz": gzip.compress, "xz": lzma.compress, "zip": _zip}
        return _wrong(found, pack.get(way, _utf16)(data))
    found.name += ".gz"
    if way == "no gzip":
        return _wrong(found, data if data[:2] != b"\x1f\x8b" else b"x")
    if way == "empty gzip":
        return _wrong(found, b"")
    if way == "two members":
        half = rng.randrange(len(data) + 1)
        found.data = gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1)
        return found
    packed = gzip.compress(data, 1)
    found.data = packed
    if way == "gzip":
        return found
    found.cut, found.rows, found.exact = True, None, False
    if way == "cut gzip":
        found.data = packed[: rng.randrange(1, len(packed))]
    elif way == "tail":
        found.data = packed + b"tail of something else"
    else:  # the checksum at the end: everything looks whole until there
        found.data = packed[:-8] + bytes(255 - b for b in packed[-8:])
    return found


def _wrong(found: BadFile, data: bytes) -> BadFile:
    """Something else than its name says: nothing of it can be read, and one complaint stands for all."""
    return BadFile(found.name, data, found.options, 1, bad={1: "wrong kind of file"}, cut=True)


def _zip(data: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.jsonl", data)
    return out.getvalue()


def _utf16(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode("utf-16")


def _txt(rng: random.Random) -> BadFile:
    """Lines of text, of which several make a document: the marks of all good lines have to be somewhere."""
    separator = rng.choice(("line", "blank_line"))
    found = BadFile("x.txt", b"", {"format": {"name": "text", "separator": separator}}, 0)
    lines: list[bytes] = []
    for number in range(rng.choice((1, 10, 200))):
        kind = rng.random()
        if kind < 0.2:
            lines.append(rng.choice((b"", b"  ")))
        elif kind < 0.35 and lines:
            fault, line = rng.choice(
                (("NUL", b"a\0b"), ("not UTF-8", b"\xff\xfe"), ("mark inside", b"\xef\xbb\xbfx"), ("cut", b"\xe6\xbc"))
            )
            lines.append(line)
            found.bad[len(lines)] = fault
        else:
            lines.append(f"wörd {mark(number)} 🙂".encode() + b"x" * rng.choice((0, 100_000)))
            found.good[mark(number)] += 1
            found.lines[mark(number)] = len(lines)
    found.rows = len(lines)
    found.data = b"\n".join(lines) + b"\n"
    return _packed(found, rng)


def _parquet(rng: random.Random) -> BadFile:
    import pyarrow
    import pyarrow.parquet

    found = BadFile("x.parquet", b"", {"format": "preference"}, 0)
    rows: list[Row] = []
    for number in range(rng.choice((1, 30, 600))):
        row = FORMATS["preference"](mark(number))
        if rows and rng.random() < 0.2:
            row["chosen"] = rng.choice((None, "", " ", "no", "a\0b"))
            found.bad[number + 1] = f"chosen {row['chosen']!r}"
        else:
            found.good[mark(number)] += 1
            found.lines[mark(number)] = number + 1
        rows.append(row)
    found.rows = len(rows)
    out = BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    if rng.random() < 0.2 and not found.bad:  # bytes that are not UTF-8 in a column of texts
        wrong = pyarrow.array([b"\xff\xff" if n % 7 == 3 else b"x" for n in range(len(rows))])
        table = table.append_column("more", pyarrow.Array.from_buffers(pyarrow.string(), len(rows), wrong.buffers()))
        for number in range(3, len(rows), 7):
            found.bad[number + 1] = "not UTF-8"
            del found.good[mark(number)], found.lines[mark(number)]
    if rng.random() < 0.1:
        table = pyarrow.Table.from_arrays([*table.columns, table.column(0)], [*table.column_names, "prompt"])
        pyarrow.parquet.write_table(table, out)
        return _wrong(found, out.getvalue())
    pyarrow.parquet.write_table(table, out, row_group_size=rng.choice((10, 100_000)))
    found.data = out.getvalue()
    if rng.random() < 0.3:
        found.data = found.data[: rng.randrange(len(found.data))]
        return _wrong(found, found.data)
    if rng.random() < 0.2:
        found.name = rng.choice(("x.jsonl", "x.json", "x.txt"))
        return _wrong(found, found.data)
    return found


def mutate(seed: int) -> BadFile:
    """A file with good rows in which random bytes were changed: what holds a whole good line may not vanish."""
    rng = random.Random(f"mutated {seed}")
    name = rng.choice(list(FORMATS))
    numbers = range(rng.choice((1, 5, 50)))
    lines = [rng.choice(ODD[:6])(FORMATS[name](mark(n)), rng) for n in numbers]
    originals = {line: mark(n) for n, line in zip(numbers, lines, strict=True)}
    container = rng.choice(("lines", "lines", "array", "gzip", "parquet"))
    found = BadFile("x.jsonl", b"\n".join(lines) + b"\n", {"format": name}, None, exact=False)
    if container == "array":
        found.name, found.data = "x.json", b"[" + b",\n".join(lines) + b"]"
    elif container == "gzip":
        found.name, found.data = "x.jsonl.gz", gzip.compress(found.data)
    elif container == "parquet":
        found = _parquet(rng)
        return BadFile(found.name, _changed(found.data, rng), found.options, None, exact=False, cut=True)
    found.data = _changed(found.data, rng)
    if container != "lines":
        found.cut = True
        return found
    after = found.data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    while after and _is_blank(after[-1]):
        after.pop()
    found.rows = len(after)
    for number, line in enumerate(after, 1):
        if line in originals and originals[line] not in found.lines:
            found.lines[originals[line]] = number
    return found


def _is_blank(line: bytes) -> bool:
    try:
        return not line.decode().strip() and b"\0" not in line
    except UnicodeDecodeError:
        return False


def _changed(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at = rng.randrange(len(out) + 1)
        way = rng.randrange(5)
        if way == 0 and out:
            out[min(at, len(out) - 1)] = rng.randrange(256)
        elif way == 1:
            out[at:at] = rng.choice(PIECES)
        elif way == 2:
            del out[at : at + rng.choice((1, 5, 100))]
        elif way == 3:
            out[at:at] = out[max(0, at - 50) : at]
        else:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 8))))
    return bytes(out)
