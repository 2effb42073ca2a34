"""Reading YAML so that every later message can name its line."""

import re
from pathlib import Path
from typing import Any

import yaml

from alignkit.errors import UserError

KeyPath = tuple[str | int, ...]
MAX_BYTES = 250_000
MAX_DEPTH = 50
MAX_DIGITS = 100
FLOAT, TIMESTAMP = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
TEXT = "tag:yaml.org,2002:str"
KNOWN_TAGS = {TEXT, FLOAT, *(f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "int", "bool", "null"))}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with two of its surprises left out: `3e-4` is a number here, and `2026-11-20` is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(FLOAT, re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789"))


class Lines:
    """Where each key of a recipe stands: `lines.at(("steps", 2, "lr"))` -> `recipe.yaml:14`."""

    def __init__(self, file: str, lines: dict[KeyPath, int] | None = None) -> None:
        self.file = file
        self._lines = lines or {}

    def at(self, path: KeyPath) -> str:
        """File and line of `path`, or of the nearest key above it; `command line` for an overridden key."""
        for end in range(len(path), -1, -1):
            line = self._lines.get(path[:end])
            if line is not None:
                return f"{self.file}:{line}" if line > 0 else "command line"
        return self.file

    def overridden(self, path: KeyPath) -> None:
        """Remember that `path`, and with it all below, was set on the command line."""
        for below in [key for key in self._lines if key[: len(path)] == path]:
            del self._lines[below]
        self._lines[path] = 0
        for end in range(1, len(path)):  # what the command line had to make above it
            self._lines.setdefault(path[:end], 0)


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Parse a recipe file. Raises UserError for a missing file, bad YAML, aliases or a key given twice."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"recipe is larger than {MAX_BYTES} bytes", where=path, hint="is this the right file?")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such recipe", where=path, hint="give a file, or one of the shipped names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe: {error}", where=path) from None
    try:
        node = yaml.compose(text, Loader=_Loader)
    except OverflowError:
        raise UserError(r"not valid YAML: \U with a number that no character has", where=path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        hint = "check indentation, quotes, brackets"
        if "'@'" in problem:
            hint = 'put quotes around a reference: "@id"'
        elif r"'\t'" in problem:
            hint = "indent with spaces: YAML takes no tabs there"
        raise UserError(f"not valid YAML: {problem}", where=place, hint=hint) from None
    except RecursionError:
        raise UserError("nested too deeply", where=path) from None
    lines: dict[KeyPath, int] = {}
    data = _plain(node, (), lines, str(path), set()) if node is not None else None
    if not isinstance(data, dict):
        raise UserError("a recipe is a mapping with name, policy and steps", where=path)
    return data, Lines(str(path), lines)


def _plain(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], file: str, seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in seen:
        # An alias repeats a node; nested aliases grow without bound, and `vars` does what they are used for.
        raise UserError("YAML aliases are not allowed", where=f"{file}:{line}", hint="use vars and $name instead")
    seen.add(id(node))
    if len(path) > MAX_DEPTH:
        raise UserError(f"nested more than {MAX_DEPTH} levels deep", where=f"{file}:{line}")
    if not isinstance(node, yaml.ScalarNode):
        _require_known_tag(node, file)
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(key_node, file)
            if not isinstance(key, str):
                raise UserError(f"key {key!r} is not text", where=f"{file}:{key_node.start_mark.line + 1}")
            if key in out:
                raise UserError(f"key {key!r} is given twice", where=f"{file}:{key_node.start_mark.line + 1}")
            lines[(*path, key)] = key_node.start_mark.line + 1
            out[key] = _plain(value_node, (*path, key), lines, file, seen)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, i), lines, file, seen) for i, child in enumerate(node.value)]
    return _scalar(node, file)


def _require_known_tag(node: yaml.Node, file: str) -> None:
    """Tags that make anything else than plain data are refused, also where they would be ignored."""
    if node.tag not in KNOWN_TAGS:
        where = f"{file}:{node.start_mark.line + 1}"
        hint = "leave the tag out, or put quotes around the text"
        raise UserError(f"value not understood: the tag {node.tag}", where=where, hint=hint)


def _scalar(node: yaml.Node, file: str) -> Any:
    _require_known_tag(node, file)
    if node.tag != TEXT and len(node.value) > MAX_DIGITS:
        # A number of a million digits takes minutes to read, and one of 5,000 cannot be printed.
        where = f"{file}:{node.start_mark.line + 1}"
        raise UserError("a number this long is not understood", where=where, hint="put quotes around it if it is text")
    try:
        return _Loader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, KeyError, IndexError) as error:
        # `!!int x` is a ValueError, `!!bool x` a KeyError, `!!int ''` an IndexError
        where = f"{file}:{node.start_mark.line + 1}"
        raise UserError(f"value not understood: {getattr(error, 'problem', error)}", where=where) from None


def parse_value(text: str) -> Any:
    """The value of a `key=value` override, read as YAML by the rules of recipes; what is no such YAML is text."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _plain(node, (), {}, "command line", set())
    except (yaml.YAMLError, UserError, RecursionError, OverflowError):
        return text
