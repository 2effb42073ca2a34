"""Words of models, servers and strangers' files on a terminal: they must not steer it, and secrets are not shown."""

import json
import sys
import traceback
from types import TracebackType
from typing import Any

import click

from alignkit.redact import redact

# Control characters move the cursor, set the title, fill the clipboard; the others reorder what stands around them.
_STEERING = [*range(0x00, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F]
_STEERING += [*range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {n: f"\\x{n:02x}" if n < 0x100 else f"\\u{n:04x}" for n in _STEERING if chr(n) not in "\t\n"}
_JSON_ESCAPES = {n: f"\\u{n:04x}" for n in _STEERING if n >= 0x7F}  # those below are escaped in any JSON


def printable(text: str) -> str:
    r"""`text` with each character that would steer a terminal as an escape like `\x1b`. Line ends and tabs stay."""
    return text.translate(_ESCAPES)


def say(text: str, *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print a text that may be a stranger's, in a style as `click.secho` knows it."""
    click.secho(printable(text), err=err, nl=nl, **style)


def say_json(data: Any, indent: int | None = 2) -> None:
    """Print data as JSON that is faithful and steers nothing."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    click.echo(text.translate(_JSON_ESCAPES))


def show_bug(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    """For `sys.excepthook`: the traceback of an error that nobody foresaw, without secrets."""
    sys.stderr.write(printable(redact("".join(traceback.format_exception(kind, error, place)))))
