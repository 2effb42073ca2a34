"""The run engine: does the steps of a recipe in order, each once, and keeps the books."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.context import RunInfo, StepContext
from alignkit.engine.blame import clear_failure, explained
from alignkit.engine.identity import first_difference, input_references, step_identity
from alignkit.engine.ledger import Ledger, StepRecord
from alignkit.engine.lock import locked
from alignkit.engine.plugin_record import plugin_record
from alignkit.engine.precision import mixed_precision
from alignkit.engine.ranks import require_same_plugins
from alignkit.errors import Paused, UserError
from alignkit.files import json_safe, read_json, remove_left_overs, write_json
from alignkit.hooks import notify
from alignkit.interruption import Interruption
from alignkit.preflight import before_run, before_step, say
from alignkit.protocols import Step, Tracker
from alignkit.recipe.check import check_recipe, chosen_trackers
from alignkit.recipe.load import Loaded
from alignkit.recipe.model import StepSpec
from alignkit.seeds import derived_seed

logger = logging.getLogger("alignkit")

CHECKPOINTS = "checkpoints"


def run_recipe(
    loaded: Loaded,
    *,
    start_from: str | None = None,
    reuse: Sequence[Path] = (),
    allow_code: frozenset[str] = frozenset(),
    command: str = "alignkit run",
) -> dict[str, Any]:
    """Do every unfinished step of the recipe and return the summary.

    `start_from` forgets the step with that id and all later ones; `reuse` names finished runs whose identical steps
    are taken over instead of being done again. Raises UserError, Paused or Fault.
    """
    return _Run(loaded, allow_code, command).execute(start_from, reuse)


class _Run:
    def __init__(self, loaded: Loaded, allow_code: frozenset[str], command: str) -> None:
        self.loaded = loaded
        self.recipe = loaded.recipe
        self.manager = loaded.manager
        self.allow_code = allow_code
        self.command = command
        self.folder = Path(self.recipe.output).expanduser() / self.recipe.name
        self.info = RunInfo(
            self.recipe.name, self.folder, self.recipe.seed, self.recipe.rounds, self.manager.versions()
        )
        self.ledger = Ledger(self.folder)
        self.reuse: list[Ledger] = []
        self.first: int | None = None  # number of the step of --from
        self.interruption = Interruption()

    def execute(self, start_from: str | None, reuse: Sequence[Path]) -> dict[str, Any]:
        ids = [s.id for s in self.recipe.steps]
        if start_from is not None and start_from not in ids:
            raise UserError(f"no step {start_from!r} in the recipe", where="--from", hint=f"steps: {', '.join(ids)}")
        self.reuse = [Ledger.of_existing_run(path) for path in reuse]
        require_same_plugins(self.manager)
        check_recipe(self.recipe, self.manager, self.loaded.lines, self.allow_code)
        self.first = ids.index(start_from) + 1 if start_from is not None else None
        self._choose_device()
        with locked(self.folder), self.interruption.installed():
            self._check_unchanged()
            say(before_run(self.loaded, self.allow_code, again=self._again))
            if self.first is not None:
                self.ledger.forget(self.first)
            remove_left_overs(self.folder)
            return self._all_rounds()

    def _all_rounds(self) -> dict[str, Any]:
        # Counted anew: a step sees what stands before it, not what an older run did after it.
        self.ledger = Ledger(self.folder)
        write_json(self.folder / "recipe.json", self.recipe.model_dump(mode="json"))
        write_json(self.folder / "plugins.json", self._plugin_record())
        notify(self.manager, "alignkit_run_start", run=self.info)
        for round in range(1, self.recipe.rounds + 1):
            notify(self.manager, "alignkit_round_start", run=self.info, round=round)
            for number, step in enumerate(self.recipe.steps, 1):
                if round == 1 or step.each_round:
                    self._step(step, number, round)
            notify(self.manager, "alignkit_round_end", run=self.info, round=round)
        summary = self.ledger.write_reports(self.recipe, self.info)
        notify(self.manager, "alignkit_run_end", run=self.info, summary=summary)
        return summary

    def _planned(self) -> Iterator[tuple[StepSpec, int, int]]:
        for round in range(1, self.recipe.rounds + 1):
            for number, step in enumerate(self.recipe.steps, 1):
                if round == 1 or step.each_round:
                    yield step, number, round

    def _check_unchanged(self) -> None:
        """A changed recipe over an old run is an error that names the key, before anything is touched.

        What will be done again may differ.
        """
        planned = {(round, number, step.id): step for step, number, round in self._planned()}
        for round, number, id, _ in self.ledger.step_folders():
            if not self._again(number, round) and (round, number, id) not in planned:
                raise UserError(
                    f"{self.folder} holds a result of step {id!r} as step {number} of round {round}, "
                    "which the recipe does not have",
                    where=self.loaded.lines.at(("steps",)),
                    hint="name=NEW starts another run; --from ID does step ID and the later ones again; "
                    "steps can be added at the end, rounds can be raised",
                )
        for (round, number, _), step in planned.items():
            self.ledger.require_place(step.id, number, round)
            if self._again(number, round):
                continue
            record = self.ledger.read(step.id, number, round)
            folder = self.ledger.step_folder(step.id, number, round)
            if record is not None and (record.finished or self._keeps(step, folder)):
                self._compare(record, step, number, round)
                self.ledger.adopt(record, folder)

    def _keeps(self, step: StepSpec, folder: Path) -> bool:
        """Whether the folder of the unfinished step holds work that is gone on with; any other starts over."""
        return "keeps_partial" in self.manager.get("step", step.step).component.tags or (folder / CHECKPOINTS).is_dir()

    def _compare(self, record: StepRecord, step: StepSpec, number: int, round: int) -> None:
        changed = first_difference(record.identity, json_safe(self._identity(step, round)))
        if changed is not None:
            key, old, new = changed
            local = ":local:" in key and old is not None and new is not None
            what = f"the file of the plugin behind {key}" if local else key
            raise UserError(
                f"{what} of step {step.id!r} changed from {old!r} to {new!r}, and {self.folder} holds the old result",
                where=self._line_of(key, number),
                hint=f"name=NEW starts another run; --from {step.id} does this step and the later ones again",
            )

    def _line_of(self, key: str, number: int) -> str:
        section, *rest = key.split(".")
        path = [int(part) if part.isdecimal() else part for part in rest]
        start: tuple[str | int, ...] = ("policy",) if section == "policy" else ("steps", number - 1)
        return self.loaded.lines.at((*start, *path) if section in ("policy", "options") else start)

    def _choose_device(self) -> None:
        """Once for all steps; what cannot be used here is found before anything is written."""
        from alignkit.device import choose_device
        from alignkit.ops import choose_ops

        self.device = choose_device(self.recipe.device)
        self.ops = choose_ops(self.manager, self.recipe.kernels, self.device)
        choice = ", ".join(f"{op}: {kernel}" for op, kernel in self.ops.choice.items())
        logger.info("device %s · kernels %s (%s)", self.device, choice, self.ops.reason)

    def _identity(self, step: StepSpec, round: int) -> dict[str, Any]:
        """What the step's result depends on, as far as its inputs are there."""
        inputs: dict[str, str] = {}
        for reference in input_references(self.recipe, step):
            if reference[1:].partition(".")[0] == step.id:
                continue
            source = self.ledger.find(reference)
            if source is None:
                continue  # the recipe's policy may refer to a later step; a step's own references were checked
            inputs[reference] = source.hash
        return step_identity(self.recipe, step, round, self.manager, inputs)

    def _step(self, step: StepSpec, number: int, round: int) -> None:
        folder = self.ledger.step_folder(step.id, number, round)
        record = self.ledger.read(step.id, number, round)
        if record is not None and record.finished:
            # An appended step may have changed what `@latest` means for this one, which the check could not foresee.
            self._compare(record, step, number, round)
            logger.info("round %d · %s is finished", round, step.id)
            self.ledger.adopt(record, folder)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # of a run that was killed right behind its end
            return
        started = StepRecord.new(step.id, round, json_safe(self._identity(step, round)))
        if not self._again(number, round) and self._take_over(started, number, folder):
            return
        if folder.exists() and not (record is not None and self._keeps(step, folder)):
            shutil.rmtree(folder)
        elif record is not None:
            self._compare(record, step, number, round)
            started = replace(started, started=record.started)
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger.write(started, folder)
        logger.info("round %d · %s (%s)", round, step.id, step.step)
        self._do(step, folder, round, started)

    def _again(self, number: int, round: int) -> bool:
        """Whether --from asks for this step to be done anew."""
        return self.first is not None and (round > 1 or number >= self.first)

    def _take_over(self, wanted: StepRecord, number: int, folder: Path) -> bool:
        """Copy the identical finished step of a run given with --reuse, if there is one."""
        for other in self.reuse:
            if other.copy_finished(wanted.hash, folder):
                logger.info("round %d · %s taken over from %s", wanted.round, wanted.id, other.folder)
                taken = self.ledger.read(wanted.id, number, wanted.round)
                assert taken is not None
                self.ledger.adopt(taken, folder)
                return True
            namesake = other.namesake(wanted.id, wanted.round)
            changed = first_difference(namesake.identity, wanted.identity) if namesake else None
            if changed is not None:
                logger.info(
                    "round %d · %s differs from that of %s in %s", wanted.round, wanted.id, other.folder, changed[0]
                )
        return False

    def _do(self, step: StepSpec, folder: Path, round: int, started: StepRecord) -> None:
        context = self._context(step, folder, round)
        notify(self.manager, "alignkit_step_start", run=self.info, step_id=step.id, folder=folder)
        clear_failure(folder)
        try:
            with ExitStack() as trackers:
                for tracker in context.trackers:
                    trackers.callback(tracker.close)
                built: Step = context.build("step", step.component)
                before_step(built, context)
                with mixed_precision(context.device, self.recipe.precision):
                    output = built.run(context)
        except BaseException as error:
            shown = explained(error, self.manager, folder, step.component)
            notify(self.manager, "alignkit_failure", run=self.info, step_id=step.id, error=shown)
            if isinstance(shown, Paused):
                shown.hint = f"{shown.hint or ''}\n  -> then go on with: {self.command}".strip()
            if shown is error:
                raise
            raise shown from error
        record = started.finish(output, context.checkpoints.seconds)
        self.ledger.write(record, folder)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        self.ledger.adopt(record, folder)
        self.ledger.write_metrics()
        for part in sorted(set(output.outputs.values())):
            if (folder / part / "config.json").is_file():
                notify(self.manager, "alignkit_checkpoint", run=self.info, step_id=step.id, folder=folder / part)
        notify(self.manager, "alignkit_step_end", run=self.info, step_id=step.id, folder=folder)

    def _context(self, step: StepSpec, folder: Path, round: int) -> StepContext:
        import torch

        from alignkit.checkpoints import Checkpoints

        seed = derived_seed(self.recipe.seed, round, step.id)
        torch.manual_seed(seed)
        context = StepContext(
            manager=self.manager,
            recipe=self.recipe,
            run=self.info,
            device=self.device,
            ops=self.ops,
            resolve_reference=self.ledger.resolve,
            allow_code=self.allow_code,
            seed=seed,
            step_id=step.id,
            round=round,
            folder=folder,
            previous_folder=self.ledger.folder_before(step.id, round),
        )
        trackers: list[Tracker] = [
            context.build("tracker", spec) for spec in chosen_trackers(self.recipe, self.manager)
        ]
        context.trackers = trackers
        context.kept_checkpoints = Checkpoints(
            folder / CHECKPOINTS, self.recipe.checkpoints, self.interruption, trackers
        )
        return context

    def _plugin_record(self) -> dict[str, Any]:
        from alignkit.engine.environment import environment

        path = self.folder / "plugins.json"
        before = read_json(path) if path.is_file() else {}
        return {
            **plugin_record(self.recipe, self.manager),
            "environment": environment(),
            "device": str(self.device),
            "kernels": {"asked": self.recipe.kernels, "choice": self.ops.choice, "reason": self.ops.reason},
            "started": before.get("started") or datetime.now(UTC).isoformat(timespec="seconds"),
        }
