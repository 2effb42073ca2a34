"""Rows of each data format, and everything that is made wrong with one."""

import json
import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Fault = Callable[[Row, random.Random], bytes]
LONG_LINE = 16 * 1024 * 1024


def mark(number: int) -> str:
    """Found again with the pattern m[0-9]{7}x."""
    return f"m{number:07d}x"


def _chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]


def _hh(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


FORMATS: dict[str, Callable[[str], Row]] = {
    "preference": lambda m: {"prompt": "Say it.", "chosen": f"yes {m}", "rejected": "no"},
    "prompt_completion": lambda m: {"prompt": "Say it.", "completion": f"yes {m}"},
    "messages": lambda m: {"messages": _chat("Say it.", f"yes {m}")},
    "labelled": lambda m: {"prompt": "Say it.", "completion": f"yes {m}", "label": True},
    "prompts": lambda m: {"prompt": f"Say {m}."},
    "hh": lambda m: {"chosen": _hh("Say it.", f"yes {m}"), "rejected": _hh("Say it.", "no")},
    "text": lambda m: {"text": f"yes {m}"},
}


def dumped(row: Any) -> bytes:
    """A row as one line."""
    return json.dumps(row, ensure_ascii=False).encode()


def _with_extra(row: Row, value: str) -> bytes:
    """The row with one more column, whose value is JSON as it stands."""
    return dumped(row)[:-1] + b', "note": ' + value.encode("utf-8", "surrogatepass") + b"}"


def _column_set(value: Any) -> Fault:
    return lambda row, rng: dumped({**row, _column(row): value})


def _column(row: Row) -> str:
    return next(name for name in ("chosen", "completion", "messages", "text", "prompt") if name in row)


# Good rows that look odd.
ODD: tuple[Fault, ...] = (
    lambda row, rng: dumped(row),
    lambda row, rng: dumped(row),
    lambda row, rng: json.dumps(row).encode(),
    lambda row, rng: b" \t" + dumped(row) + b"  ",
    lambda row, rng: dumped(row) + b"\r",
    lambda row, rng: _with_extra(row, '"\u2028\x7f 漢字 🙂 \\ud83d\\ude42"'),
    lambda row, rng: _with_extra(row, json.dumps("w" * rng.choice((100, 100_000)))),
    lambda row, rng: _with_extra(row, "1e400"),
    lambda row, rng: _with_extra(row, "[" * 60 + "]" * 60),
    lambda row, rng: _with_extra(row, "null"),
    lambda row, rng: _with_extra(row, "[" + "0," * 100_000 + "0]"),
    lambda row, rng: dumped(dict(reversed(row.items()))),
)

# Bad rows that are JSON all the same: inside an array the rows behind them can be read.
SYNTAX_KEPT: dict[str, Fault] = {
    "no object": lambda row, rng: rng.choice((b"[1]", b'"text"', b"null", b"3", b"true", b"-0.5e7")),
    "NaN": lambda row, rng: _with_extra(row, rng.choice(("NaN", "Infinity", "-Infinity"))),
    "long number": lambda row, rng: _with_extra(row, "9" * 5000),
    "key twice": lambda row, rng: dumped(row)[:-1] + b', "note": 1, "note": 2}',
    "inner key twice": lambda row, rng: _with_extra(row, '{"a": {"b": 1, "b": 1}}'),
    "half a character": lambda row, rng: _with_extra(row, '"\\udc00 \\ud800"'),
    "NUL escape": lambda row, rng: _with_extra(row, '["\\u0000"]'),
    "NUL in a key": lambda row, rng: dumped(row)[:-1] + b', "a\\u0000": 1}',
    "not UTF-8": lambda row, rng: dumped(row)[:-1] + b', "note": "\xff\xfe\xed\xa0\x80"}',
    "deep": lambda row, rng: _with_extra(row, "[" * 100 + "]" * 100),
    "missing column": lambda row, rng: dumped({"x" if k == _column(row) else k: v for k, v in row.items()}),
    "null": _column_set(None),
    "number": _column_set(7),
    "boolean": _column_set(False),
    "object": _column_set({"text": "x"}),
    "list of lists": _column_set([["x"]]),
    "odd messages": _column_set([{"role": "user"}, {"content": "x"}, {"role": 1, "content": "x"}]),
    "unknown role": _column_set([{"role": "asistant" * 10, "content": "x"}]),
    "empty": _column_set(""),
    "blank": _column_set(" \n\t"),
    "empty list": _column_set([]),
    "no column": lambda row, rng: b"{}",
}
BREAKING: dict[str, Fault] = {
    "cut off": lambda row, rng: dumped(row)[: rng.randrange(1, len(dumped(row)) - 1)],
    "single quotes": lambda row, rng: b"{'a': 1}",
    "trailing comma": lambda row, rng: dumped(row)[:-1] + b",}",
    "no colon": lambda row, rng: b'{"a" 1}',
    "words": lambda row, rng: b"yes, no",
    "NUL": lambda row, rng: dumped(row).replace(b"yes", b"y\0s").replace(b"Say", b"S\0y"),
    "mark inside": lambda row, rng: b"\xef\xbb\xbf" + dumped(row),
    "very deep": lambda row, rng: _with_extra(row, "[" * 100_000),
    "deep objects": lambda row, rng: _with_extra(row, '{"a":' * 5000 + "1" + "}" * 5000),
    "many values": lambda row, rng: _with_extra(row, "[" + "{}," * 400_000 + "0]"),
    "many keys": lambda row, rng: _with_extra(row, "{" + ",".join(f'"{n}":0' for n in range(260_000)) + "}"),
}
HUGE: dict[str, Fault] = {
    "long line": lambda row, rng: _with_extra(row, '"' + "x" * LONG_LINE + '"'),
    "long key": lambda row, rng: b'{"' + b"k" * (LONG_LINE - 10) + b'": 1}',
}
# Of one format only.
OWN: dict[str, dict[str, Fault]] = {
    "preference": {
        "equal pair": lambda row, rng: dumped({**row, "chosen": "no"}),
        "misspelt": lambda row, rng: dumped({"promt": "x", "chosen": "a", "rejected": "b"}),
        "other form": lambda row, rng: dumped(
            {"prompt": _chat("x"), "chosen": _chat("u", "a")[1:], "rejected": _chat("u", "b")[1:]}
        ),
        "margin": lambda row, rng: dumped({**row, "margin": "3"}),
        "misspelt margin": lambda row, rng: dumped({**row, "margn": 3}),
    },
    "hh": {
        "equal pair": lambda row, rng: dumped({**row, "rejected": row["chosen"]}),
        "no transcript": lambda row, rng: dumped({**row, "chosen": "yes"}),
        "other context": lambda row, rng: dumped({**row, "chosen": _hh("Else?", "yes")}),
    },
    "labelled": {"label": lambda row, rng: dumped({**row, "label": rng.choice((0, 1, "good", None))})},
    "messages": {"no answer": lambda row, rng: dumped({"messages": row["messages"][:1]})},
}
