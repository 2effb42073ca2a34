"""What can be known about a `data` step before the run: bad input is reported before anything is written."""

import logging
from typing import Any, cast

from alignkit.data.sources import files_of, local_path
from alignkit.errors import AlignkitError, UserError
from alignkit.manager import PluginManager
from alignkit.protocols import DataFormat
from alignkit.recipe.check import resolve
from alignkit_plugins.step_data.complaints import MOST_HINT, Complaints, counted, too_many
from alignkit_plugins.step_data.config import DataConfig
from alignkit_plugins.step_data.counts import BadRows, remember
from alignkit_plugins.step_data.reading import read_records, rows_of
from alignkit_plugins.step_data.splitting import Splitter
from alignkit_plugins.step_data.step import limited

logger = logging.getLogger("alignkit")


def check_data(config: DataConfig, manager: PluginManager) -> None:
    """Raise UserError for missing files and, in strict mode, bad rows of the local files."""
    data_format = _build_format(config, manager)
    if data_format is not None:
        check_options(config, data_format)
    local = []
    for source in config.sources:
        place = local_path(source)
        if place is not None:
            files_of(place)
            local.append(source)
    if config.split is not None and len(local) == len(config.sources):
        raise UserError("split is for hub data sets, and there is none under files", hint="leave split out")
    if data_format is not None and local:
        _read_once(config, manager, data_format, local)


def check_options(config: DataConfig, data_format: DataFormat) -> None:
    """Raise UserError for options that do not go with the format."""
    name = config.format.name
    if data_format.generates and config.files is not None:
        raise UserError(f"the format {name} makes its own rows and reads no files", hint="leave files out")
    if data_format.generates and config.limit is not None:
        raise UserError(f"limit has no meaning for the format {name}", hint="set the format's own number of rows")
    if not data_format.generates and config.files is None:
        raise UserError("files is missing", hint=f"the format {name} reads files, folders or hub data sets")


class _NotStartedError(AlignkitError):
    """A format's `build` asked for something that exists only in a run."""


class _NotStarted:
    def __getattr__(self, name: str) -> Any:
        raise _NotStartedError(name)


def _build_format(config: DataConfig, manager: PluginManager) -> DataFormat | None:
    """The format, or None if it can be built in a run only; then its rows are checked there."""
    resolved = resolve(manager, "data_format", config.format)
    try:
        built = resolved.registered.build(resolved.config, cast("Any", _NotStarted()))
    except _NotStartedError:
        return None
    return cast("DataFormat", built)


def _read_once(config: DataConfig, manager: PluginManager, data_format: DataFormat, local: list[str]) -> None:
    """Strict: no row may be bad. Otherwise one good row is enough, and the bad ones are counted and said."""
    strict = config.on_bad_row == "strict"
    found = Complaints()
    splitter = Splitter.of(config)
    records = 0
    sources = rows_of(local, config.split)
    try:
        registered = manager.get("data_format", config.format.name)
        rows = read_records(data_format, registered, sources, found.add, splitter.accept)
        for _ in limited(rows, config.limit):
            records += 1
    except UserError:
        if not (strict and found.first):  # else the bad rows may be what a format lacks at its end
            raise
    if found.first and (strict or not records):
        # A format that joins rows has given no record yet, and taken some all the same.
        used = strict and bool(sources.used or sources.silent)
        hint = found.hint(sources.count, used, config.max_bad_share)
        raise UserError(found.text(), where=found.first[0].where, hint=hint)
    if found.first:
        problem = too_many(found.reasons, sources.count, config.max_bad_share)
        if problem is not None and len(local) == len(config.sources):
            raise UserError(problem, where=", ".join(local), hint=MOST_HINT)
        remember(config, BadRows(found.total, sources.count, found.first[0]))
        first, bad_rows = found.first[0], counted(found.total, "bad row")
        logger.warning("%s will be skipped, the first at %s: %s", bad_rows, first.where, first.problem)
    if not records and len(local) == len(config.sources):
        raise UserError("the files hold no row", where=", ".join(local), hint="look at the files and the format")
