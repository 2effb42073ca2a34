"""`$name` in a recipe and `key=value` on the command line."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.errors import UserError, did_you_mean
from alignkit.recipe.model import Recipe
from alignkit.recipe.source import KeyPath, Lines, parse_value

# Characters and entries that variables may put into each part of a recipe.
MAX_SIZE = 2_000_000
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def apply_overrides(data: dict[str, Any], overrides: Sequence[str], lines: Lines) -> dict[str, Any]:
    """Apply `ID.path=value`, `vars.name=value`, `name=value` (a variable) or `seed=…`, `rounds=…`, `name=…`.

    Top-level keys of the recipe win over variables of the same name.
    """
    data = copy.deepcopy(data)
    _check_variables(data, lines)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"override {override!r} is not KEY=VALUE", where="command line")
        path = _target(data, key)
        _put(data, path, parse_value(text), override)
        lines.overridden(path)
        _check_variables(data, lines)
    return data


def _check_variables(data: Mapping[str, Any], lines: Lines) -> None:
    if not isinstance(data.get("vars") or {}, dict):
        raise UserError("vars is a mapping of names to values", where=lines.at(("vars",)))


def _target(data: Mapping[str, Any], key: str) -> KeyPath:
    parts: list[str] = key.split(".")
    variables = data.get("vars") or {}
    listed = data.get("steps")
    steps = [s.get("id") if isinstance(s, dict) else None for s in listed] if isinstance(listed, list) else []
    if parts[0] in steps and len(parts) > 1:
        return ("steps", steps.index(parts[0]), *parts[1:])
    if parts[0] == "vars" and len(parts) > 1 and parts[1] not in variables and parts[1] not in _used(data):
        raise UserError(
            f"no variable {parts[1]!r} in the recipe{did_you_mean(parts[1], list(variables))}",
            where="command line",
            hint=f"variables: {', '.join(variables) or 'none'}",
        )
    if parts[0] in Recipe.model_fields and parts[0] != "steps":
        return tuple(parts)
    if len(parts) == 1 and parts[0] in variables:
        return ("vars", parts[0])
    known = [*variables, *[str(s) for s in steps], *[f for f in Recipe.model_fields if f != "steps"]]
    raise UserError(
        f"{key!r} is neither a variable nor a step's option nor a key of the recipe{did_you_mean(parts[0], known)}",
        where="command line",
        hint=f"variables: {', '.join(variables) or 'none'}; steps: {', '.join(map(str, steps))} (as ID.option=value)",
    )


def _used(data: Any) -> set[str]:
    """Every name that `$name` refers to."""
    if isinstance(data, dict | list):
        return {name for value in (data.values() if isinstance(data, dict) else data) for name in _used(value)}
    return {a or b for a, b in VARIABLE.findall(data)} if isinstance(data, str) else set()


def _put(data: Any, path: KeyPath, value: Any, override: str) -> None:
    for i, part in enumerate(path[:-1]):
        key = _key(data, part, override)
        following = data[key] if isinstance(data, list) else data.get(key)
        if following is None or (isinstance(following, str) and isinstance(data, dict)):
            # A bare component name is short for {name: …}; an option set below it needs the long form.
            following = {"name": following} if isinstance(following, str) else {}
            data[key] = following
        if not isinstance(following, dict | list):
            raise UserError(f"{'.'.join(map(str, path[: i + 1]))} has no options", where=f"command line: {override}")
        data = following
    data[_key(data, path[-1], override)] = value


def _key(data: Any, part: str | int, override: str) -> Any:
    """`part` as a key of a mapping or as a place in a list."""
    if isinstance(data, dict):
        return part
    if not str(part).isdecimal() or int(part) >= len(data):
        raise UserError(f"{part!r} is no place in a list of {len(data)}", where=f"command line: {override}")
    return int(part)


def substitute(data: Any, variables: Mapping[str, Any], lines: Lines, path: KeyPath = ()) -> Any:
    """Replace `$name`: a value that is only `$name` takes the variable as it is, inside a text it is inserted.

    `$$` is a dollar sign.
    """
    return _Filling(variables, lines).fill(data, path)


class _Filling:
    """Puts variables in, up to a size: a short file could name a long variable many times."""

    def __init__(self, variables: Mapping[str, Any], lines: Lines) -> None:
        self.variables = variables
        self.lines = lines
        self.size = 0

    def fill(self, data: Any, path: KeyPath) -> Any:
        if isinstance(data, dict):
            return {k: self.fill(v, (*path, k)) for k, v in data.items()}
        if isinstance(data, list):
            return [self.fill(v, (*path, i)) for i, v in enumerate(data)]
        if not isinstance(data, str) or "$" not in data:
            return data
        whole = VARIABLE.fullmatch(data)
        if whole:
            return self._bounded(self._variable(whole, path), path)
        filled = [VARIABLE.sub(lambda m: self._text(m, path), part) for part in data.split("$$")]
        return "$".join(filled)

    def _text(self, match: re.Match[str], path: KeyPath) -> str:
        return str(self._bounded(self._variable(match, path), path))

    def _bounded(self, value: Any, path: KeyPath) -> Any:
        """`value`, counted: its texts' characters and its entries."""
        left = [value]
        while left:
            part = left.pop()
            self.size += len(part) if isinstance(part, str) else 1
            left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
            if self.size + len(left) > MAX_SIZE:
                raise UserError(
                    f"with its variables put in, the recipe is larger than {MAX_SIZE:,} characters",
                    where=self.lines.at(path),
                    hint="put long texts and lists into files",
                )
        return value

    def _variable(self, match: re.Match[str], path: KeyPath) -> Any:
        name = match.group(1) or match.group(2)
        if name not in self.variables:
            raise UserError(
                f"${name} is not in vars{did_you_mean(name, list(self.variables))}",
                where=self.lines.at(path),
                hint=f"vars: {', '.join(self.variables) or 'none'}",
            )
        value = self.variables[name]
        if value is None:
            raise UserError(
                f"the variable {name} has no value", where=self.lines.at(path), hint=f"add {name}=… to the command"
            )
        return value
