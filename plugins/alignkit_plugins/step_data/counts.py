"""How many rows are bad, from the check that reads the files whole to the look that reads their beginning."""

from typing import TYPE_CHECKING, NamedTuple

from alignkit.data.rows import BadRow
from alignkit.data.sources import files_of, local_path

if TYPE_CHECKING:
    from alignkit_plugins.step_data.config import DataConfig


class BadRows(NamedTuple):
    """Of all rows of the local files."""

    bad: int
    rows: int
    first: BadRow


_found: dict[object, BadRows] = {}
# Data steps of a process whose count is kept.
_KEPT = 100


def remember(config: "DataConfig", found: BadRows) -> None:
    """Keep what a whole pass over the files found."""
    if len(_found) >= _KEPT:
        _found.clear()
    _found[_key(config)] = found


def remembered(config: "DataConfig") -> BadRows | None:
    """What was found, if the same files were read whole in this process, with the same options."""
    return _found.get(_key(config))


def _key(config: "DataConfig") -> object:
    places = [place for place in map(local_path, config.sources) if place is not None]
    marks = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for p in places for file in files_of(p)]
    return config.model_dump_json(), tuple(marks)
