"""Whether what a run folder holds is what the recipe would make: asked by the run, and by the look before it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignkit.engine.identity import first_difference, input_references, step_identity
from alignkit.engine.ledger import CHECKPOINTS, Ledger, StepRecord
from alignkit.errors import UserError
from alignkit.files import json_safe
from alignkit.recipe.model import StepSpec

if TYPE_CHECKING:
    from alignkit.recipe.load import Loaded

# What the user wrote comes before what follows from it: another file has another name and another content.
SECTIONS = ("options", "policy", "seed", "kernels", "precision", "components", "inputs", "files")

Again = Callable[[int, int], bool]


class Misfit(NamedTuple):
    """What a run would stop at: the step (None for one that the recipe does not have), its place, and the error."""

    step: StepSpec | None
    number: int
    round: int
    error: UserError


class Unchanged:
    """Compares the steps of a recipe with those in a run folder."""

    def __init__(self, loaded: "Loaded", folder: Path) -> None:
        self.recipe, self.manager, self.lines = loaded.recipe, loaded.manager, loaded.lines
        self.folder = folder

    def planned(self) -> Iterator[tuple[StepSpec, int, int]]:
        """Every step with its number and round, in the order in which they are done."""
        for round in range(1, self.recipe.rounds + 1):
            for number, step in enumerate(self.recipe.steps, 1):
                if round == 1 or step.each_round:
                    yield step, number, round

    def misfits(self, ledger: Ledger, again: Again) -> Iterator[Misfit]:
        """A changed recipe over an old run, each with an error that names the key. What fits is adopted by `ledger`.

        What will be done `again(number, round)` may differ.
        """
        planned = {(round, number, step.id): step for step, number, round in self.planned()}
        for round, number, id, _ in ledger.step_folders():
            if not again(number, round) and (round, number, id) not in planned:
                yield Misfit(None, number, round, self._not_in_recipe(id, number, round))
        for (round, number, _), step in planned.items():
            try:
                self._adopt(ledger, step, number, round, again(number, round))
            except UserError as error:
                yield Misfit(step, number, round, error)

    def _adopt(self, ledger: Ledger, step: StepSpec, number: int, round: int, again: bool) -> None:
        ledger.require_place(step.id, number, round)
        if again:
            return
        record = ledger.read(step.id, number, round)
        folder = ledger.step_folder(step.id, number, round)
        if record is not None and (record.finished or self.keeps(step, folder)):
            self.compare(ledger, record, step, number, round)
            if record.finished:
                ledger.require_whole(record, folder)
            ledger.adopt(record, folder)

    def keeps(self, step: StepSpec, folder: Path) -> bool:
        """Whether the folder of the unfinished step holds work that is gone on with; any other starts over."""
        from alignkit.checkpoints import Checkpoints

        # The folder may be empty, if the first checkpoint was never complete.
        tags = self.manager.get("step", step.step).component.tags
        return "keeps_partial" in tags or bool(Checkpoints(folder / CHECKPOINTS).there())

    def compare(self, ledger: Ledger, record: StepRecord, step: StepSpec, number: int, round: int) -> None:
        """Raise UserError that names the first thing of `step` that differs from `record`."""
        identity = json_safe(self.identity(ledger, step, round))
        for section in (*SECTIONS, *sorted({*record.identity, *identity} - {*SECTIONS})):
            changed = first_difference(record.identity.get(section), identity.get(section), section)
            if changed is not None:
                held = "the old result" if record.finished else "what was done of it before"
                raise UserError(
                    f"{_said(step, *changed)}, and {self.folder} holds {held}",
                    where=self._line_of(changed[0], number),
                    hint=f"name=NEW starts another run; --from {step.id} does this step and the later ones again",
                )

    def identity(self, ledger: Ledger, step: StepSpec, round: int) -> dict[str, Any]:
        """What the step's result depends on, as far as its inputs are there."""
        inputs: dict[str, str] = {}
        for reference in input_references(self.recipe, step):
            if reference[1:].partition(".")[0] == step.id:
                continue
            source = ledger.find(reference)
            if source is None:
                continue  # the recipe's policy may refer to a later step; a step's own references were checked
            inputs[reference] = source.hash
        return step_identity(self.recipe, step, round, self.manager, inputs)

    def _not_in_recipe(self, id: str, number: int, round: int) -> UserError:
        return UserError(
            f"{self.folder} holds a result of step {id!r} as step {number} of round {round}, "
            "which the recipe does not have",
            where=self.lines.at(("steps",)),
            hint="name=NEW starts another run; --from ID does step ID and the later ones again; "
            "steps can be added at the end, rounds can be raised",
        )

    def _line_of(self, key: str, number: int) -> str:
        section, *rest = key.split(".")
        path = [int(part) if part.isdecimal() else part for part in rest]
        start: tuple[str | int, ...] = ("policy",) if section == "policy" else ("steps", number - 1)
        return self.lines.at((*start, *path) if section in ("policy", "options") else start)


def _said(step: StepSpec, key: str, old: Any, new: Any) -> str:
    """What changed, in the user's words: an option by its name, a file by its content."""
    section, _, rest = key.partition(".")
    if section == "options":
        return f"{step.id}.{rest} changed from {old!r} to {new!r}"
    if section == "files" and rest:
        what = "is there now" if old is None else "is not there any more" if new is None else "has another content"
        return f"the file {rest} of step {step.id!r} {what}"
    if section == "inputs" and rest and old is not None and new is not None:
        return f"the result of {rest}, which step {step.id!r} reads, changed"
    if section == "seed":
        return "the seed of the recipe changed"
    local = ":local:" in key and old is not None and new is not None
    what = f"the file of the plugin behind {key}" if local else key
    return f"{what} of step {step.id!r} changed from {old!r} to {new!r}"
