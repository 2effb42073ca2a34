"""Where rows come from: files, folders and hub data sets, each row with its place for error messages.

Files are read as a stream, parquet in batches, hub data sets through `datasets` (memory-mapped).
"""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alignkit.data.arrays import json_array_rows
from alignkit.data.kinds import CONVERT
from alignkit.data.lines import is_array, json_line_rows, text_rows
from alignkit.data.parquet import checked, parquet_rows
from alignkit.data.rows import BadRow, Rows, first_line, shown
from alignkit.errors import UserError
from alignkit.protocols import SourceRow

logger = logging.getLogger("alignkit")

HUB_NAME = re.compile(r"^(?P<name>[\w.-]+/[\w.-]+?)(?::(?P<config>[\w.-]+))?$")


def read_rows(path: str, split: str | None = None) -> Rows:
    """Rows of a file, of the files in a folder, or of a hub data set (`owner/name`, `owner/name:config`).

    Rows are dicts, or text lines for .txt. `split` is for hub data sets. The iterator raises BadRow with
    `file:line` for a row that cannot be read and goes on behind it. Raises UserError for a source that cannot
    be read at all.
    """
    place = local_path(path)
    if place is None:
        return Rows(_hub_rows(path, split))
    return Rows(_chained(files_of(place)))


def local_path(source: str) -> Path | None:
    """The existing file or folder that `source` names, None for a hub name; otherwise a UserError."""
    try:
        path = Path(source).expanduser()
        found = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be read, ~ of nobody
        raise UserError(f"cannot look for the file: {error}", where=_named(source), hint="check the path") from None
    if found:
        return path
    if HUB_NAME.fullmatch(source) and not source.startswith(".") and _reader_of(path) is None:
        return None
    raise UserError(
        "no such file or folder", where=_named(source), hint="check the path; hub data sets are `owner/name`"
    )


def _named(source: str) -> str:
    """A path from a recipe as a message may show it: it may hold anything."""
    return source if len(source) < 4096 and source.isprintable() else shown(repr(source))


def files_of(path: Path) -> list[Path]:
    """The data files that `path` stands for. Raises UserError for unknown kinds and empty folders."""
    if path.is_file():
        if _reader_of(path) is None:
            table = f"; {CONVERT}" if path.suffix.lower() in (".csv", ".tsv") else ""
            endings = f"known endings: {', '.join(_READERS)}, and .gz"
            raise UserError("unknown kind of file", where=path, hint=endings + table)
        return [path]
    if not path.is_dir():
        raise UserError("neither a file nor a folder", where=path, hint="a pipe or device could be read only once")
    try:
        inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read the folder: {error.strerror}", where=path, hint="look at its rights") from None
    known = [p for p in inside if p.is_file() and _reader_of(p) is not None]
    if not known:
        raise UserError("no data file in this folder", where=path, hint=f"known endings: {', '.join(_READERS)}")
    for other in sorted({*inside} - {*known}):
        why = f"not one of {', '.join(_READERS)}" if other.is_file() else "only files of this folder are read"
        logger.warning("%s is left out: %s", other, why)
    return known


def _chained(files: list[Path]) -> Iterator[SourceRow | BadRow]:
    for path in files:
        reader = _reader_of(path)
        assert reader is not None
        empty = True
        for row in reader(path):
            empty = False
            yield row
        if empty:
            logger.warning("%s holds no row", path)


def _json_rows(path: Path) -> Iterator[SourceRow | BadRow]:
    return json_array_rows(path) if is_array(path) else json_line_rows(path)


_READERS: dict[str, Callable[[Path], Iterator[SourceRow | BadRow]]] = {
    ".jsonl": json_line_rows,
    ".json": _json_rows,
    ".txt": text_rows,
    ".parquet": parquet_rows,
}


def known_endings() -> list[str]:
    """Endings of the files that can be read; they may also end with .gz."""
    return list(_READERS)


def _reader_of(path: Path) -> Callable[[Path], Iterator[SourceRow | BadRow]] | None:
    name = path.name
    if name.endswith(".gz") and not name.endswith(".parquet.gz"):
        name = name.removesuffix(".gz")
    return _READERS.get(Path(name).suffix)


def _hub_rows(source: str, split: str | None) -> Iterator[SourceRow | BadRow]:
    match = HUB_NAME.fullmatch(source)
    assert match is not None
    data = _loaded(match["name"], match["config"], split)
    if isinstance(data, dict):
        splits = sorted(str(s) for s in data)
        if len(splits) > 1:
            raise UserError(
                "this data set has several splits",
                where=source,
                hint=f"set split to one of {', '.join(splits)}",
            )
        split, data = splits[0], next(iter(data.values()))
    for number, row in enumerate(data, 1):
        yield checked(f"{source}[{split}]:{number}", row)


def _loaded(name: str, config: str | None, split: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:
        # Not found, no network, unknown configuration or split: the library has no common class for them.
        raise UserError(
            f"cannot load the hub data set {name!r}: {type(error).__name__}: {first_line(error)}",
            where=name if config is None else f"{name}:{config}",
            hint="check name, configuration, split and network; no local file or folder has that name either",
        ) from None
