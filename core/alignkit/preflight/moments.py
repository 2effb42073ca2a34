"""The two moments at which a run is looked at: before it starts, and right before each of its steps."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.context import RunInfo, StepContext
from alignkit.errors import AlignkitError, Fault, UserError
from alignkit.files import write_json
from alignkit.preflight.finding import Finding, by_severity
from alignkit.preflight.guard import without_effect
from alignkit.preflight.looking import NotYetError, look_at
from alignkit.preflight.previews import Previewed
from alignkit.recipe.check import recipe_problems
from alignkit.recipe.model import LATEST, StepSpec
from alignkit.seeds import derived_seed

if TYPE_CHECKING:
    from alignkit.recipe.load import Loaded

logger = logging.getLogger("alignkit")

FINDINGS = "findings.json"
# Notes that a run does not show: its log says the same, or nothing is to be done.
QUIET = {"R004", "R064", "R070"}
# Of rows as they are written, whatever step reads them.
OF_ROWS = {"R025", "R026", "R027"}


def recipe_findings(loaded: "Loaded", allow_code: frozenset[str]) -> tuple[list[Finding], set[str]]:
    """Everything that `check_recipe` would stop at, and the ids of the steps that it is about."""
    found: dict[tuple[str, str], Finding] = {}
    steps: set[str] = set()
    # First the recipe by itself, then with the files, models and code that it names.
    for code, allowed in (("R001", None), ("R002", allow_code)):
        for step, error in recipe_problems(loaded.recipe, loaded.manager, loaded.lines, allowed):
            finding = Finding.of("R003" if isinstance(error, Fault) else code, error)
            found.setdefault((finding.what, finding.where), finding)
            steps |= {step} if step else {s.id for s in loaded.recipe.steps}
    return list(found.values()), steps


def before_run(
    loaded: "Loaded",
    allow_code: frozenset[str] = frozenset(),
    leave_out: frozenset[str] = frozenset(),
    again: Callable[[int, int], bool] = lambda number, round: False,
) -> list[Finding]:
    """Findings about the machine and about every step that is not finished, as far as its inputs are there.

    Errors first. Writes nothing. Each step is looked at once, for the first round in which it is to be done;
    `leave_out` names steps that are known not to work; `again(number, round)` says which will be done anew although
    they are finished.
    """
    with without_effect(), Previewed() as previewed:
        return by_severity(list(_Before(loaded, allow_code, leave_out, again, previewed).findings()))


def before_step(built: object, context: StepContext) -> None:
    """Look at a step whose inputs are all there.

    Logs warnings and notes (those that were not said before), writes findings.json, raises UserError for errors.
    """
    with without_effect():
        found, missing = look_at(built, context)
    if missing:
        found.append(Finding("R004", f"needs {', '.join(missing)}"))
    placed = by_severity([replace(f, where=_in_step(f, context.step_id)) for f in found])
    write_json(context.folder / FINDINGS, [finding.data() for finding in placed])
    say(placed)


def say(findings: Sequence[Finding]) -> None:
    """Log warnings and notes, each once in a process; raise UserError that names every error."""
    errors = [f for f in findings if f.severity == "error"]
    for finding in findings:
        key = (finding.code, finding.what)
        if finding.severity == "error" or key in _said:
            continue
        _said.add(key)
        place = f"{finding.where}: " if finding.where else ""
        line = f"{finding.code} {finding.severity}: {place}{finding.what}"
        if finding.severity == "warning":
            logger.warning("%s -> %s", line, finding.advice)
        else:
            logger.log(logging.DEBUG if finding.code in QUIET else logging.INFO, "%s", line)
    if errors:
        more = "".join(f"\n{f.where}: {f.code} {f.what}" for f in errors[1:])
        raise UserError(f"{errors[0].code} {errors[0].what}{more}", where=errors[0].where, hint=errors[0].advice)


_said: set[tuple[str, str]] = set()


class _Before:
    """The whole run, without doing any of it."""

    def __init__(
        self,
        loaded: "Loaded",
        allow_code: frozenset[str],
        leave_out: frozenset[str],
        again: Callable[[int, int], bool],
        previewed: Previewed,
    ) -> None:
        from alignkit.engine.ledger import Ledger

        self.loaded, self.recipe, self.manager = loaded, loaded.recipe, loaded.manager
        self.allow_code, self.leave_out, self.again, self.previewed = allow_code, leave_out, again, previewed
        self.folder = Path(self.recipe.output).expanduser() / self.recipe.name
        self.ledger: Ledger = Ledger(self.folder)
        self.stale: set[tuple[int, int]] = set()

    def findings(self) -> Iterator[Finding]:
        from alignkit.preflight.machine import chosen, version_findings

        self.device, self.ops, found = chosen(self.recipe, self.manager)
        yield from found
        yield from version_findings(self.folder, self.recipe, self.manager)
        yield from self._misfits()
        waiting: dict[str, tuple[str, ...]] = {}
        for number, step, round in self._to_do():
            found, missing = self._look(step, number, round)
            for finding in found:
                if finding.code in OF_ROWS and self.previewed.holds(finding.where):
                    continue  # the data step has said it of the same rows
                place = self._place(finding, number - 1, step.id)
                yield replace(finding, where=place, what=self.previewed.named(finding.what))
            if missing:
                waiting[step.id] = missing
        if waiting:
            listed = "; ".join(f"{id} (needs {', '.join(needs)})" for id, needs in waiting.items())
            yield Finding("R004", listed)

    def _misfits(self) -> Iterator[Finding]:
        """Results of an earlier start that the run would refuse; they count as not finished."""
        from alignkit.engine.identity import input_references
        from alignkit.engine.ledger import Ledger
        from alignkit.engine.unchanged import Unchanged

        if self.leave_out:  # whose options cannot be compared
            return
        changed: set[str] = set()
        for step, number, round, error in Unchanged(self.loaded, self.folder).misfits(Ledger(self.folder), self.again):
            if step is not None:
                self.stale.add((number, round))
                follows = changed & {r[1:].partition(".")[0] for r in input_references(self.recipe, step)}
                changed |= {step.id, LATEST}
                if follows:  # it differs as what it is made of does
                    continue
            yield Finding.of("R075", error)

    def _to_do(self) -> Iterator[tuple[int, StepSpec, int]]:
        """Steps that are not finished, in order; finished ones count as inputs of what comes after them."""
        seen: set[str] = set()
        for round in range(1, self.recipe.rounds + 1):
            for number, step in enumerate(self.recipe.steps, 1):
                if step.id in seen or step.id in self.leave_out or (round > 1 and not step.each_round):
                    continue
                kept = not self.again(number, round) and (number, round) not in self.stale
                record = None
                with suppress(UserError):  # a damaged one: said above, or once the recipe itself is mended
                    record = self.ledger.read(step.id, number, round) if kept else None
                if record is not None and record.finished:
                    self.ledger.adopt(record, self.ledger.step_folder(step.id, number, round))
                    continue
                seen.add(step.id)
                yield number, step, round

    def _look(self, step: StepSpec, number: int, round: int) -> tuple[list[Finding], tuple[str, ...]]:
        context = self._context(step, number, round)
        try:
            built = context.build("step", step.component)
        except NotYetError as error:
            return [], error.references
        except AlignkitError as error:  # what its build needs may be there only when the step runs
            return [Finding.of("R005", error)], ()
        found, missing = look_at(built, context)
        if not missing and not any(finding.severity == "error" for finding in found):
            self.previewed.add(built, context)
        return found, missing

    def _resolve(self, reference: str) -> Path:
        if self.ledger.find(reference) is not None:
            return self.ledger.resolve(reference)
        return self.previewed.resolve(reference)

    def _context(self, step: StepSpec, number: int, round: int) -> StepContext:
        info = RunInfo(self.recipe.name, self.folder, self.recipe.seed, self.recipe.rounds, self.manager.versions())
        return StepContext(
            manager=self.manager,
            recipe=self.recipe,
            run=info,
            device=self.device,
            ops=self.ops,
            resolve_reference=self._resolve,
            allow_code=self.allow_code,
            seed=derived_seed(self.recipe.seed, round, step.id),
            step_id=step.id,
            round=round,
            folder=self.ledger.step_folder(step.id, number, round),
            previous_folder=self.ledger.folder_before(step.id, round),
        )

    def _place(self, finding: Finding, index: int, id: str) -> str:
        """Line of the recipe, step and option; or file and step."""
        if finding.option is None:
            return f"{self.previewed.named(finding.where)} (step {id})"
        path: list[Any] = [part for part in finding.option.split(".") if part]
        line = self.loaded.lines.at(("steps", index, *path))
        return f"{line} ({'.'.join([id, *path])})"


def _in_step(finding: Finding, id: str) -> str:
    if finding.option is None:
        return f"{finding.where} (step {id})"
    return f"step {id}" + (f", {finding.option}" if finding.option else "")
