"""The run engine: does the steps of a recipe in order, each once, and keeps the books."""

import logging
import random
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.answers import checked_output
from alignkit.context import RunInfo, StepContext
from alignkit.engine.blame import clear_failure, explained
from alignkit.engine.identity import first_difference
from alignkit.engine.ledger import CHECKPOINTS, Ledger, StepRecord
from alignkit.engine.lock import LOCK, locked
from alignkit.engine.plugin_record import plugin_record
from alignkit.engine.precision import mixed_precision
from alignkit.engine.ranks import require_same_plugins
from alignkit.engine.unchanged import Unchanged
from alignkit.errors import Fault, Paused, UserError
from alignkit.files import json_safe, read_json, remove_left_overs, write_json
from alignkit.hooks import notify
from alignkit.interruption import Interruption
from alignkit.joining import as_ended
from alignkit.preflight import before_run, before_step, say
from alignkit.processes import count, heed_others, is_first, on_first, several
from alignkit.protocols import Step, StepOutput, Tracker, shares_work
from alignkit.recipe.check import check_recipe, chosen_trackers
from alignkit.recipe.load import Loaded
from alignkit.recipe.model import StepSpec
from alignkit.seeds import derived_seed

logger = logging.getLogger("alignkit")


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
        self.unchanged = Unchanged(loaded, self.folder)
        self.reuse: list[Ledger] = []
        self.first: int | None = None  # number of the step of --from
        self.interruption = Interruption()

    def execute(self, start_from: str | None, reuse: Sequence[Path]) -> dict[str, Any]:
        ids = [s.id for s in self.recipe.steps]
        if start_from is not None and start_from not in ids:
            raise UserError(f"no step {start_from!r} in the recipe", where="--from", hint=f"steps: {', '.join(ids)}")
        self.reuse = [Ledger.of_existing_run(path) for path in reuse]
        require_same_plugins(self.manager)
        on_first(lambda: check_recipe(self.recipe, self.manager, self.loaded.lines, self.allow_code))
        self.first = ids.index(start_from) + 1 if start_from is not None else None
        self._choose_device()
        with locked(self.folder) if is_first() else nullcontext(), self.interruption.installed():
            on_first(self._make_ready)
            return self._all_rounds()

    def _make_ready(self) -> None:
        """Refuse what cannot be gone on with, and clear what is to be done anew."""
        self._check_unchanged()
        say(before_run(self.loaded, self.allow_code, again=self._again))
        if self.first is not None:
            self.ledger.forget(self.first)
        remove_left_overs(self.folder)
        write_json(self.folder / "recipe.json", self.recipe.model_dump(mode="json"))
        write_json(self.folder / "plugins.json", self._plugin_record())

    def _all_rounds(self) -> dict[str, Any]:
        # Counted anew: a step sees what stands before it, not what an older run did after it.
        self.ledger = Ledger(self.folder)
        notify(self.manager, "alignkit_run_start", run=self.info)
        for round in range(1, self.recipe.rounds + 1):
            notify(self.manager, "alignkit_round_start", run=self.info, round=round)
            for number, step in enumerate(self.recipe.steps, 1):
                if round == 1 or step.each_round:
                    self._step(step, number, round)
            notify(self.manager, "alignkit_round_end", run=self.info, round=round)
        summary: dict[str, Any] = on_first(lambda: self.ledger.write_reports(self.recipe, self.info))
        notify(self.manager, "alignkit_run_end", run=self.info, summary=summary)
        return summary

    def _check_unchanged(self) -> None:
        """A changed recipe over an old run is an error that names the key, before anything is touched."""
        for misfit in self.unchanged.misfits(self.ledger, self._again):
            raise misfit.error

    def _choose_device(self) -> None:
        """Once for all steps; what cannot be used here is found before anything is written."""
        from alignkit.device import choose_device
        from alignkit.ops import choose_ops

        self.device = choose_device(self.recipe.device)
        self.ops = choose_ops(self.manager, self.recipe.kernels, self.device)
        choice = ", ".join(f"{op}: {kernel}" for op, kernel in self.ops.choice.items())
        together = f"{count()} processes · " if several() else ""
        logger.info("%sdevice %s · kernels %s (%s)", together, self.device, choice, self.ops.reason)
        if several() and self.recipe.checkpoints.background:
            logger.warning("checkpoints.background: several processes write together, and the step waits for them")

    def _step(self, step: StepSpec, number: int, round: int) -> None:
        heed_others()
        folder = self.ledger.step_folder(step.id, number, round)
        started = on_first(lambda: self._begin(step, number, round))
        if started is not None:
            self._do(step, folder, round, StepRecord(**started))
        if not is_first():
            record = self.ledger.read(step.id, number, round)
            assert record is not None
            self.ledger.adopt(record, folder)

    def _begin(self, step: StepSpec, number: int, round: int) -> dict[str, Any] | None:
        """The manifest of a step that is to be done, its folder made ready; None for one that is finished."""
        folder = self.ledger.step_folder(step.id, number, round)
        record = self.ledger.read(step.id, number, round)
        if record is not None and record.finished:
            # An appended step may have changed what `@latest` means for this one, which the check could not foresee.
            self.unchanged.compare(self.ledger, record, step, number, round)
            logger.info("round %d · %s is finished", round, step.id)
            self.ledger.adopt(record, folder)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # of a run that was killed right behind its end
            return None
        started = StepRecord.new(step.id, round, json_safe(self.unchanged.identity(self.ledger, step, round)))
        if not self._again(number, round) and self._take_over(started, number, folder):
            return None
        if folder.exists() and not (record is not None and self.unchanged.keeps(step, folder)):
            shutil.rmtree(folder)
        elif record is not None:
            self.unchanged.compare(self.ledger, record, step, number, round)
            started = replace(started, started=record.started)
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger.write(started, folder)
        logger.info("round %d · %s (%s)", round, step.id, step.step)
        return asdict(started)

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
        try:
            with ExitStack() as trackers:
                for tracker in context.trackers:
                    trackers.callback(tracker.close)
                built: Step = context.build("step", step.component)
                on_first(lambda: _look_at(built, context))
                output = self._output(step, built, context)
        except BaseException as error:
            self._failed(error, step, folder)
            raise
        on_first(lambda: self._finish(step, folder, started.finish(output, context.checkpoints.seconds, folder)))

    def _output(self, step: StepSpec, built: Step, context: StepContext) -> StepOutput:
        """What the step gives: done by all processes, if it shares its work, else by the first while others wait."""
        outputs: list[StepOutput] = []

        def work() -> None:
            from alignkit.modeling.flat import padding_free

            with mixed_precision(context.device, self.recipe.precision), padding_free(self.recipe.padding_free):
                found = built.run(context)
            if is_first():  # the others may not see yet what it names
                who = self.manager.get("step", step.step).described
                outputs.append(checked_output(found, context.folder, who))

        if several() and shares_work(built, context):
            work()
        else:
            on_first(work)
        return outputs[0] if is_first() else StepOutput({}, {})

    def _failed(self, error: BaseException, step: StepSpec, folder: Path) -> None:
        """Say whose fault it was, tell listeners, and raise it in the form that the user sees."""
        shown = explained(as_ended(error), self.manager, folder, step.component)
        notify(self.manager, "alignkit_failure", run=self.info, step_id=step.id, error=shown)
        if isinstance(shown, Paused):
            shown.hint = f"{shown.hint or ''}\n  -> then go on with: {self.command}".strip()
        if shown is not error:
            raise shown from error

    def _finish(self, step: StepSpec, folder: Path, record: StepRecord) -> None:
        """The books of a step that is done."""
        if not (self.folder / LOCK).exists():
            raise Fault(
                "the run's folder is gone: was it moved or removed while it runs?",
                where=self.folder,
                hint="move a run when it has stopped",
            )
        self.ledger.write(record, folder)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        self.ledger.adopt(record, folder)
        self.ledger.write_metrics()
        for part in sorted(set(record.outputs.values())):
            if (folder / part / "config.json").is_file():
                notify(self.manager, "alignkit_checkpoint", run=self.info, step_id=step.id, folder=folder / part)
        notify(self.manager, "alignkit_step_end", run=self.info, step_id=step.id, folder=folder)

    def _context(self, step: StepSpec, folder: Path, round: int) -> StepContext:
        from alignkit.checkpoints import Checkpoints

        seed = derived_seed(self.recipe.seed, round, step.id)
        _seed_all(seed)
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
        chosen = chosen_trackers(self.recipe, self.manager) if is_first() else ()
        trackers: list[Tracker] = [context.build("tracker", spec) for spec in chosen]
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


def _look_at(built: Step, context: StepContext) -> None:
    clear_failure(context.folder)
    before_step(built, context)


def _seed_all(seed: int) -> None:
    """Also the generators that only strangers' code draws from: their steps, too, can be done again."""
    import numpy as np
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
