"""What can be seen of a data set before it is read: the first records of its local files."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alignkit.context import HELDOUT, StepContext
from alignkit.data.rows import BadRow
from alignkit.data.sources import known_endings, local_path
from alignkit.preflight import Finding, Sample
from alignkit.preflight.content import content_findings
from alignkit.preflight.sample import READ
from alignkit.protocols import DataFormat, Preview
from alignkit.records import Record
from alignkit_plugins.step_data.complaints import Complaints, strict_hint
from alignkit_plugins.step_data.counts import remembered
from alignkit_plugins.step_data.reading import read_records, rows_of
from alignkit_plugins.step_data.repeated import Seen
from alignkit_plugins.step_data.splitting import Splitter
from alignkit_plugins.step_data.step import limited

if TYPE_CHECKING:
    from alignkit_plugins.step_data.config import DataConfig

# Kinds of files that are no rows of JSON.
TABLES = (".csv", ".tsv", ".xlsx")


def examine_data_set(config: "DataConfig", context: StepContext) -> Iterator[Finding]:
    """Of the records that come first: empty, repeated or equal ones, and how many rows will be skipped."""
    yield from source_findings(config)
    found, bad = first_records(config, context)
    count = sum(map(len, found.values()))
    first = bad.first[0] if bad.first else None
    if first is not None and config.on_bad_row == "strict":
        yield Finding("R002", first.problem, str(first.where), strict_hint(first))
    elif (whole := remembered(config)) is not None:
        share = f"{whole.bad} of {whole.rows} rows"
        yield Finding("R006", f"{share}; the first, {whole.first.where}: {whole.first.problem}", "on_bad_row")
    elif first is not None:
        what = f"{bad.total} beside the first {count} records; the first, {first.where}: {first.problem}"
        yield Finding("R006", what, "on_bad_row")
    yield from record_findings(config, found)


def record_findings(config: "DataConfig", found: Mapping[str, list[Record]]) -> Iterator[Finding]:
    """One for each kind of thing, with the parts that it is seen in: a row is often in several."""
    count = sum(map(len, found.values()))
    seen: defaultdict[str, list[str]] = defaultdict(list)
    votes = Seen()
    for part, records in found.items():
        sample = Sample(list(enumerate(records, 1)), len(records), "")
        for finding in content_findings(sample, None):
            seen[finding.code].append(f"{part}: {finding.what}")
        opposite = sum(votes.contradicted(record) for record in records)
        if opposite:
            seen["R034"].append(f"{part}: {sample.counted(opposite)} say the opposite of an earlier one")
    if config.drop_duplicates:
        seen.pop("R026", None)
    for code, parts in seen.items():
        yield Finding(code, f"of the first {count} records, {'; '.join(parts)}", "files")


def source_findings(config: "DataConfig") -> Iterator[Finding]:
    """Sources that are no file here, and so are taken for data sets of the hub: some are mistyped paths."""
    for source in config.sources:
        if local_path(source) is not None:
            continue
        path = Path(source)
        what = f"there is no file {source!r} here: it will be fetched from the hub as a data set"
        ending = next((e for e in (*TABLES, *known_endings()) if path.name.lower().endswith(e)), None)
        if ending in TABLES:
            yield Finding("R008", what, "files", f"check the path; {ending} has to be converted to .jsonl or .parquet")
        elif ending is not None or Path(path.parts[0]).is_dir():
            yield Finding("R008", what, "files")
        else:
            yield Finding("R009", what, "files")


class FirstRecords(NamedTuple):
    """Part -> records, and the bad rows among them."""

    parts: dict[str, list[Record]]
    bad: Complaints


def first_records(config: "DataConfig", context: StepContext) -> FirstRecords:
    """The first ones in local files.

    Read by a format of its own: what the step's remembers of rows must not be of these.
    """
    found: defaultdict[str, list[Record]] = defaultdict(list)
    bad = Complaints()
    data_format: DataFormat = context.build("data_format", config.format)
    accept = Splitter.of(config).accept
    local = [source for source in config.sources if local_path(source) is not None]
    if local and not data_format.generates:
        registered = context.manager.get("data_format", config.format.name)
        rows = rows_of(local, config.split)
        records = limited(read_records(data_format, registered, rows, bad.add, accept), config.limit)
        for part, record in islice(records, READ):
            found[part].append(record)
    return FirstRecords(found, bad)


def preview_data_set(config: "DataConfig", context: StepContext) -> Preview:
    """The first records, split as the step would. Records of other steps and hub data sets are left out."""
    split: defaultdict[str, list[Record]] = defaultdict(list)
    found = first_records(config, context).parts
    elsewhere = config.parts_from or any(local_path(source) is None for source in config.sources)
    complete = not elsewhere and sum(map(len, found.values())) < READ
    seen, splitter = Seen(), Splitter.of(config)
    for part, records in found.items():
        if config.drop_duplicates:
            records = [record for record in records if not seen.before(part, record)]
        for record in records:
            try:
                side = "heldout" if part.startswith(HELDOUT) else splitter.side(record)
            except BadRow:
                continue
            if side in ("train", "heldout"):
                split[HELDOUT * (side == "heldout") + part.removeprefix(HELDOUT)].append(record)
    return Preview(dict(split), complete, _reasons(found))


def _reasons(found: Mapping[str, list[Record]]) -> dict[str, str]:
    """Why there are no prompts, where other parts have them."""
    for part, records in found.items():
        empty = sum(not getattr(record, "prompt", None) for record in records)
        if empty == len(records):
            return {"prompts": f"the prompts of all {empty} {part} are empty"}
    return {}
