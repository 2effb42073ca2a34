"""The `data` step: from sources to one checked, split JSONL file per part."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.context import HELDOUT, PARTS, StepContext
from alignkit.data.rows import BadRow
from alignkit.data.store import RecordFile
from alignkit.errors import UserError
from alignkit.preflight import Finding
from alignkit.protocols import DataFormat, Preview, StepOutput
from alignkit.recipe.check import references
from alignkit.records import Record
from alignkit_plugins.step_data.complaints import MOST_HINT, counted, reasons_text, share_text, strict_hint, too_many
from alignkit_plugins.step_data.config import DataConfig
from alignkit_plugins.step_data.reading import read_records, rows_of
from alignkit_plugins.step_data.repeated import Seen, only_white_space
from alignkit_plugins.step_data.splitting import Splitter
from alignkit_plugins.step_data.tally import Tally
from alignkit_plugins.step_data.writing import REJECTED, PartFiles

logger = logging.getLogger("alignkit")

_LOG_EVERY = 10_000


class DataStep:
    """Reads, checks, splits and writes the records of one data set."""

    def __init__(self, config: DataConfig, data_format: DataFormat) -> None:
        self._config = config
        self._format = data_format
        self._splitter = Splitter.of(config)
        self._seen = Seen()
        self._tally = Tally()
        self._rows = rows_of(config.sources, config.split)

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """The first rows of the local files, before it runs."""
        from alignkit_plugins.step_data.examine import examine_data_set

        return examine_data_set(self._config, context)

    def preview(self, context: StepContext) -> Preview:
        """The first records of the local files, split as they will be."""
        from alignkit_plugins.step_data.examine import preview_data_set

        return preview_data_set(self._config, context)

    def run(self, context: StepContext) -> StepOutput:
        """Write the parts into the step's folder."""
        context.start_progress(None, "row")
        try:
            return self._run(context)
        except BadRow as bad:  # of another step's records, where there is no row to leave out
            raise UserError(bad.problem, where=f"step {context.step_id}, parts_from") from None

    def _run(self, context: StepContext) -> StepOutput:
        added = [found for reference in self._config.parts_from for found in _parts_of(reference, context)]
        for part, records in added:
            if part.startswith(HELDOUT):
                for record in records:
                    self._splitter.hold_out(record)
        with PartFiles(context.folder) as files:
            for part, record in limited(self._own_records(files, context), self._config.limit, self._over_limit):
                self._place(part, record, files)
            for part, records in added:
                for record in records:
                    self._tally.added += 1
                    self._place(part, record, files)
            bad = self._tally.rejected.total()
            context.log(self._progress(), {"bad_share": bad / self._rows.count} if bad else {})
            self._tally.check(self._rows, files.counts, self._config.format.name)
            self._check_result(files.counts, context)
        return self._output(files.counts, context)

    def _progress(self) -> int:
        return self._tally.made if self._format.generates else self._rows.count

    def _own_records(self, files: PartFiles, context: StepContext) -> Iterator[tuple[str, Record]]:
        registered = context.manager.get("data_format", self._config.format.name)

        def on_bad(bad: BadRow) -> None:
            if self._config.on_bad_row == "strict":
                raise UserError(bad.problem, where=bad.where, hint=strict_hint(bad))
            self._tally.reject(bad, self._rows.last)
            files.reject(bad)

        for part, record in read_records(self._format, registered, self._rows, on_bad, self._splitter.accept):
            self._tally.made += 1
            if self._tally.made % _LOG_EVERY == 0:
                context.log(self._progress(), {})
            yield part, record

    def _over_limit(self) -> None:
        self._tally.over_limit += 1

    def _place(self, part: str, record: Record, files: PartFiles) -> None:
        if self._seen.before(part, record):
            self._tally.duplicates += 1
            if self._config.drop_duplicates:
                self._tally.duplicates_left_out += 1
                return
        self._tally.white_space += only_white_space(record)
        self._tally.contradictions += self._seen.contradicted(record)
        if part.startswith(HELDOUT):
            files.write(part, record)
            return
        side = self._splitter.side(record)
        if side == "dropped":
            self._tally.left_out_by_split += 1
        elif side == "no_prompt":
            self._tally.without_prompt[part] += 1
        else:
            files.write(part if side == "train" else HELDOUT + part, record)

    def _check_result(self, counts: Counter[str], context: StepContext) -> None:
        where = f"step {context.step_id}"
        self._check_rows(counts, where)
        named = {text for step in context.recipe.steps for text, _ in references(step.options)}
        for part in PARTS:
            train, heldout = counts[part], counts[HELDOUT + part]
            # Test records alone, from a format or another step, are no mistake when nothing is split here.
            if heldout and not train and self._config.heldout:
                raise UserError(f"all {part} are held out, none is left to train on", where=where, hint="lower heldout")
            if not heldout and f"@{context.step_id}.{HELDOUT}{part}" in named:
                raise UserError(
                    f"a later step reads {HELDOUT}{part}, and of {train} {part} none is held out",
                    where=where,
                    hint="raise heldout, or give more rows",
                )
            if train and not heldout and self._config.heldout:
                logger.warning("%s: no %s are held out: too few for heldout: %g", where, part, self._config.heldout)
        self._warn(where)
        self._warn_of_split(where, counts)

    def _check_rows(self, counts: Counter[str], where: str) -> None:
        """Some record, and not too many bad rows."""
        bad = self._tally.rejected
        if not counts.total():
            rows, left_out = counted(self._progress(), "row"), self._tally.left_out_by_split
            why = f" ({reasons_text(bad, 3)})" if bad else ""
            problem = f"no record: {rows}, {bad.total()} of them bad{why}, {left_out} left out by the split"
            raise UserError(problem, where=where, hint="look at the files and the format")
        too_bad = too_many(bad, self._rows.count, self._config.max_bad_share)
        if too_bad is not None:
            raise UserError(too_bad, where=where, hint=MOST_HINT)
        if bad:
            share = share_text(bad.total(), self._rows.count)
            logger.warning("%s: %s skipped as bad (%s), see %s", where, share, reasons_text(bad), REJECTED)

    def _warn(self, where: str) -> None:
        for file in self._tally.lost:
            logger.warning("%s: the file %s is lost: nothing of it could be read", where, file)
        for place in self._tally.unread_in_part:
            logger.warning("%s: the file was not read to its end: from %s on its rows are lost", where, place)
        if self._tally.contradictions:
            found = self._tally.contradictions
            said = f"{counted(found, 'record')} {'says' if found == 1 else 'say'}"
            logger.warning("%s: %s the opposite of an earlier one; kept, as votes", where, said)
        if self._tally.white_space:
            pairs = counted(self._tally.white_space, "pair")
            logger.warning("%s: %s with sides that differ by white space at the end only; kept", where, pairs)
        if self._rows.silent and not getattr(self._format, "joins_rows", False):
            logger.warning(
                "%s: the format %s gave neither a record nor a complaint for %d rows, the first at %s",
                where,
                self._config.format.name,
                self._rows.silent,
                self._rows.first_silent,
            )

    def _warn_of_split(self, where: str, counts: Counter[str]) -> None:
        """The share is one of texts: what it makes of the pairs is another."""
        if self._tally.left_out_by_split:
            held, lost = counts[f"{HELDOUT}preferences"], self._tally.left_out_by_split
            total = held + lost + counts["preferences"]
            logger.warning(
                "%s: heldout_by: text holds out %d of %s (%.1f %%) and leaves out %d (%.1f %%), which have a text on "
                "each side; heldout_by: prompt leaves out none",
                *(where, held, counted(total, "pair"), 100 * held / total, lost, 100 * lost / total),
            )
        for part, count in self._tally.without_prompt.items():
            logger.warning("%s: %d of the part %s have no prompt to split them by: left out", where, count, part)

    def _output(self, counts: Counter[str], context: StepContext) -> StepOutput:
        outputs = {"": ".", **{part: f"{part}.jsonl" for part in sorted(counts)}}
        summary = self._tally.summary(self._rows, counts, self._format.generates)
        notes: Mapping[str, Any] = getattr(self._format, "notes", dict)()  # of a format that has something to say
        if notes:
            summary["format"] = dict(notes)
        return StepOutput(outputs, {"data": {context.step_id: summary}})


def limited(
    records: Iterable[tuple[str, Record]], limit: int | None, over: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, Record]]:
    """Records up to the first one that would make its part longer than `limit`; `over` is called for that one."""
    counts: Counter[str] = Counter()
    for part, record in records:
        counts[part] += 1
        if limit is not None and counts[part] > limit:
            over()
            return
        yield part, record


def _parts_of(reference: str, context: StepContext) -> list[tuple[str, RecordFile[Any]]]:
    """The record files behind `@id` (all its parts) or `@id.part`, each with its heldout half."""
    step, _, named = reference.partition(".")
    found: list[tuple[str, RecordFile[Any]]] = []
    for part in [named.removeprefix(HELDOUT)] if named else PARTS:
        if part not in PARTS:
            raise UserError(f"{reference}: {named!r} holds no records", where=f"step {context.step_id}")
        for name in (part, HELDOUT + part):
            if named.startswith(HELDOUT) and name != named:
                continue
            path = _resolved(f"{step}.{name}", context)
            if path is not None and path.is_file():
                found.append((name, RecordFile(path, PARTS[part])))
    if not found:
        raise UserError(
            f"{reference} has no records", where=f"step {context.step_id}", hint=f"parts: {', '.join(PARTS)}"
        )
    return found


def _resolved(reference: str, context: StepContext) -> Path | None:
    try:
        return context.resolve(reference)
    except UserError:
        return None  # a step need not have every part
