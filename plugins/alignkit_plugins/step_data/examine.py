"""What can be seen of a data set before it is read: the first records of its local files."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from alignkit.context import HELDOUT, StepContext
from alignkit.data.rows import BadRow
from alignkit.data.sources import local_path
from alignkit.preflight import Finding, Sample
from alignkit.preflight.content import content_findings
from alignkit.preflight.sample import READ
from alignkit.protocols import DataFormat
from alignkit.records import Record
from alignkit_plugins.step_data.reading import read_records, rows_of
from alignkit_plugins.step_data.splitting import Splitter
from alignkit_plugins.step_data.step import STRICT_HINT, limited

if TYPE_CHECKING:
    from alignkit_plugins.step_data.config import DataConfig


def examine_data_set(config: "DataConfig", context: StepContext) -> Iterator[Finding]:
    """Of the records that come first: empty, repeated or equal ones, and how many rows will be skipped."""
    found, bad = first_records(config, context)
    count = sum(map(len, found.values()))
    if bad and config.on_bad_row == "strict":
        yield Finding("R002", bad[0].problem, str(bad[0].where), STRICT_HINT)
    elif bad:
        what = f"{len(bad)} among the first {count} records; the first, {bad[0].where}: {bad[0].problem}"
        yield Finding("R006", what, "on_bad_row")
    for part, records in found.items():
        sample = Sample(list(enumerate(records, 1)), len(records), "")
        for finding in content_findings(sample, None):
            yield Finding(finding.code, f"{part}, of the first {count} records: {finding.what}", "files")


def first_records(config: "DataConfig", context: StepContext) -> tuple[dict[str, list[Record]], list[BadRow]]:
    """Part -> records, of the first ones in local files, and the bad rows among them.

    Read by a format of its own: what the step's remembers of rows must not be of these.
    """
    found: defaultdict[str, list[Record]] = defaultdict(list)
    bad: list[BadRow] = []
    data_format: DataFormat = context.build("data_format", config.format)
    local = [source for source in config.sources if local_path(source) is not None]
    if local and not data_format.generates:
        registered = context.manager.get("data_format", config.format.name)
        rows = rows_of(local, config.split)
        records = limited(read_records(data_format, registered, rows, bad.append), config.limit)
        for part, record in islice(records, READ):
            found[part].append(record)
    return found, bad


def preview_data_set(config: "DataConfig", splitter: Splitter, context: StepContext) -> dict[str, list[Record]]:
    """The same on the sides that the step would put them. Records of other steps and hub data sets are left out."""
    split: defaultdict[str, list[Record]] = defaultdict(list)
    for part, records in first_records(config, context)[0].items():
        for record in records if part.startswith(HELDOUT) else ():
            splitter.hold_out(record)
        for record in records:
            try:
                side = "heldout" if part.startswith(HELDOUT) else splitter.side(record)
            except BadRow:
                continue
            if side != "dropped":
                split[HELDOUT * (side == "heldout") + part.removeprefix(HELDOUT)].append(record)
    return dict(split)
