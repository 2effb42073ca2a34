"""What no text of a recipe may hold: a recipe is copied into the run's record, its texts into names and messages."""

from pathlib import Path
from typing import Any

from alignkit.errors import UserError
from alignkit.manager.local import home_filled_in
from alignkit.recipe.source import KeyPath, Lines
from alignkit.redact import redact

# Line ends and tabs stand in longer texts; the other control characters steer terminals or end file names.
_CONTROL = {*range(0x00, 0x20), *range(0x7F, 0xA0)} - {ord(c) for c in "\t\n\r"}


def require_plain_texts(data: Any, lines: Lines, path: KeyPath = ()) -> None:
    """Raise UserError for a secret, a control character or half a surrogate pair in any key or text of `data`."""
    if isinstance(data, dict):
        for key, value in data.items():
            _check(str(key), lines, path)
            require_plain_texts(value, lines, (*path, key))
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            require_plain_texts(value, lines, (*path, i))
    elif isinstance(data, str):
        _check(data, lines, path)


def _check(text: str, lines: Lines, path: KeyPath) -> None:
    key = ".".join(map(str, path)) or "recipe"
    for character in text:
        if ord(character) in _CONTROL or 0xD800 <= ord(character) < 0xE000:
            raise UserError(
                f"{key} holds the character U+{ord(character):04X}, which no text of a recipe may hold",
                where=lines.at(path),
                hint="take it out",
            )
    if text.startswith("~") and "/" in text and str(home_filled_in(Path(text))).startswith("~"):
        raise UserError(
            f"{key}: {text.partition('/')[0]} is nobody's home", where=lines.at(path), hint="write the path out"
        )
    if redact(text) != text:
        raise UserError(
            f"{key} holds what looks like a key, token or password (it is not shown here)",
            where=lines.at(path),
            hint="a recipe is copied into the run's record: put the secret into an environment variable, and name "
            "that variable where an option asks for one; if it was in a file that others can read, have it replaced",
        )
