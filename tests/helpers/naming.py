"""Finds code that is keyed on the name of a component: core must treat a built-in like a stranger's plugin."""

import ast
from collections.abc import Iterator, Set
from enum import Enum
from inspect import getmembers, isclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from alignkit import records
from alignkit.context import PARTS
from alignkit.ops.dispatch import OPS

# Calls that find or make a component by name, whatever is called so.
RESOLVING = {"resolve", "build", "get", "ComponentSpec", "model_validate"}
KEYED_METHODS = {"get", "pop", "setdefault", "startswith", "endswith", "removeprefix", "removesuffix"}
ATTRIBUTES = {"getattr", "hasattr", "setattr", "delattr"}
IMPORTING = {"import_module", "__import__", "find_spec"}
PACKAGES = ("alignkit_plugins", "alignkit_kernels")


class Keyed(NamedTuple):
    """A place that is keyed on a name."""

    line: int
    form: str
    name: str


def core_words() -> frozenset[str]:
    """Words that core has for things of its own: ops, parts of data, fields of records and the values they may have."""
    words = {*OPS, *PARTS}
    for _, value in getmembers(records):
        words |= set(_literals(value))
        if isclass(value) and issubclass(value, Enum):
            words |= {str(member.value) for member in value}
        if isclass(value) and issubclass(value, records.Record):
            for name, field in value.model_fields.items():
                words |= {name, *_literals(field.annotation)}
    return frozenset(words)


def keyed_on(source: str, names: Set[str]) -> list[Keyed]:
    """Every place in `source` that compares, looks up, builds or imports by one of `names`."""
    tree = ast.parse(source)
    return sorted(set(_Finder(tree, names).found()))


class _Finder:
    def __init__(self, tree: ast.Module, names: Set[str]) -> None:
        self.tree = tree
        self.names = names
        self.bound: dict[str, list[ast.expr]] = {}
        for name, value in _bound(tree):
            self.bound.setdefault(name, []).append(value)
        self.looked_up = set(_looked_up(tree))

    def found(self) -> Iterator[Keyed]:
        for node in ast.walk(self.tree):
            for form, value in self._keys(node):
                for name in self._named(value):
                    yield Keyed(getattr(value, "lineno", getattr(node, "lineno", 0)), form, name)
            yield from _imports(node)

    def _keys(self, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
        """(form, expression that may hold names) of one node."""
        if isinstance(node, ast.Compare):
            yield from (("comparison", side) for side in (node.left, *node.comparators))
        elif isinstance(node, ast.MatchValue):
            yield "match", node.value
        elif isinstance(node, ast.MatchMapping):
            yield from (("match", key) for key in node.keys)
        elif isinstance(node, ast.Subscript):
            if _last_name(node.value) != "Literal":
                yield "subscript", node.slice
            yield from self._table(node.value)
        elif isinstance(node, ast.Call):
            yield from self._of_call(node)
        elif isinstance(node, ast.AnnAssign) and node.value is not None and _mentions(node.annotation, "ComponentSpec"):
            yield from (("default", part) for part in ast.walk(node.value) if isinstance(part, ast.Constant))
        for target, value in _assigned(node):
            if target in self.looked_up:
                yield from self._table(value)

    def _of_call(self, node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
        function = _last_name(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if function in RESOLVING | KEYED_METHODS | ATTRIBUTES:
            yield from ((f"{function}(…)", argument) for argument in arguments)
        if isinstance(node.func, ast.Attribute) and node.func.attr in KEYED_METHODS:
            yield from self._table(node.func.value)

    def _table(self, value: ast.expr) -> Iterator[tuple[str, ast.AST]]:
        """A mapping that is written down; into a sequence one looks by number."""
        if isinstance(value, ast.Dict) or (isinstance(value, ast.Call) and _last_name(value.func) == "dict"):
            yield "table", value

    def _named(self, value: ast.AST, through: tuple[str, ...] = ()) -> Iterator[str]:
        """Names that a constant, a collection of them, or a variable bound to one holds.

        `through` are the variables that led here: one may be made from itself.
        """
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            plain = value.value.rpartition(":")[2]  # `distribution:name`
            if plain in self.names:
                yield plain
        elif isinstance(value, ast.Tuple | ast.List | ast.Set):
            for element in value.elts:
                yield from self._named(element, through)
        elif isinstance(value, ast.Dict):
            for key in value.keys:
                yield from self._named(key, through) if key is not None else ()
        elif isinstance(value, ast.Call) and _last_name(value.func) in ("set", "frozenset", "tuple", "list", "dict"):
            for argument in value.args:
                yield from self._named(argument, through)
            yield from (k.arg for k in value.keywords if k.arg in self.names)
        elif isinstance(value, ast.BinOp):
            yield from self._named(value.left, through)
            yield from self._named(value.right, through)
        elif (name := _last_name(value)) in self.bound and name not in through:
            for bound in self.bound[name]:
                yield from self._named(bound, (*through, name))


def _imports(node: ast.AST) -> Iterator[Keyed]:
    modules: list[str]
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    elif isinstance(node, ast.Call) and _last_name(node.func) in IMPORTING:
        modules = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    else:
        return
    yield from (Keyed(node.lineno, "import", m) for m in modules if m.partition(".")[0] in PACKAGES)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of an assignment to a variable or attribute."""
    if isinstance(node, ast.Assign):
        yield from ((_last_name(target), node.value) for target in node.targets)
    elif (isinstance(node, ast.AnnAssign) and node.value is not None) or isinstance(node, ast.NamedExpr):
        yield _last_name(node.target), node.value


def _bound(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Variables that hold a text or a collection, by their name in the module."""
    kinds = (ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Call, ast.BinOp)
    for node in ast.walk(tree):
        yield from ((name, value) for name, value in _assigned(node) if name and isinstance(value, kinds))


def _looked_up(tree: ast.Module) -> Iterator[str]:
    """Names of variables into which the module looks: `TABLE[x]`, `TABLE.get(x)`, `x in TABLE`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            yield _last_name(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in KEYED_METHODS:
            yield _last_name(node.func.value)
        elif isinstance(node, ast.Compare):
            yield from (_last_name(side) for side in node.comparators)


def _last_name(node: ast.AST) -> str:
    """`a.b.c` -> c."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _mentions(annotation: ast.AST, name: str) -> bool:
    return any(_last_name(part) == name for part in ast.walk(annotation))


def _literals(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (value for value in get_args(annotation) if isinstance(value, str))
    else:
        for inner in get_args(annotation):
            yield from _literals(inner)
