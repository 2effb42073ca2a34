"""What components get to work with: the run, the device, the ops, other components and the step's folder."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alignkit.components import Kind
from alignkit.data.store import RecordFile
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.protocols import Metrics, Policy, Tracker
from alignkit.recipe.check import resolve
from alignkit.recipe.model import ComponentSpec, Recipe
from alignkit.records import Demonstration, LabelledCompletion, PreferencePair, Prompt, Record, Text

if TYPE_CHECKING:
    import torch

    from alignkit.checkpoints import Checkpoints
    from alignkit.ops import Ops

logger = logging.getLogger("alignkit")

PARTS: dict[str, type[Record]] = {
    "texts": Text,
    "demonstrations": Demonstration,
    "preferences": PreferencePair,
    "labels": LabelledCompletion,
    "prompts": Prompt,
}
HELDOUT = "heldout_"


@dataclass(frozen=True)
class RunInfo:
    """What lifecycle hooks learn about the run."""

    name: str
    folder: Path
    seed: int
    rounds: int
    plugins: dict[str, str]


@dataclass
class BuildContext:
    """Given to `Component.build`."""

    manager: PluginManager
    recipe: Recipe
    run: RunInfo
    device: "torch.device"
    ops: "Ops"
    resolve_reference: Callable[[str], Path]
    allow_code: frozenset[str] = frozenset()
    seed: int = 0

    def build(self, kind: Kind, spec: ComponentSpec) -> Any:
        """Build the component `spec` names."""
        resolved = resolve(self.manager, kind, spec)
        return resolved.registered.build(resolved.config, self)

    def resolve(self, reference: str | Path) -> Path:
        """`@id`, `@id.part` or a path of the file system."""
        text = str(reference)
        return self.resolve_reference(text) if text.startswith("@") else Path(text).expanduser()

    def policy_spec(self, policy: ComponentSpec | str | None) -> ComponentSpec:
        """A reference or path means the recipe's policy component with the weights found there."""
        if policy is None:
            return self.recipe.policy
        if isinstance(policy, ComponentSpec):
            return policy
        try:
            path = str(self.resolve(policy)) if policy.startswith("@") else policy
        except UserError:
            # Before any step has made a policy, the newest one is the model that the recipe starts from.
            if policy == "@latest" and self.recipe.policy.options.get("path"):
                return self.recipe.policy
            raise
        return self.recipe.policy.with_options(path=path, init=None, tokenizer=None)

    def policy(self, policy: ComponentSpec | str | None) -> Policy:
        """Build a policy from a reference, a path, a component or the recipe's default."""
        return cast("Policy", self.build("policy", self.policy_spec(policy)))


@dataclass
class StepContext(BuildContext):
    """Given to `Step.run`: also the step's folder and the run's trackers."""

    step_id: str = ""
    round: int = 1
    folder: Path = Path()
    previous_folder: Path | None = None
    trackers: Sequence[Tracker] = field(default_factory=tuple)
    kept_checkpoints: "Checkpoints | None" = None
    # Further models of the step, part -> path inside its folder: a `training.keeping.Keeper` names them, the step gives
    # them out among its outputs.
    kept: dict[str, str] = field(default_factory=dict)
    # What was left out while the step worked, by name: for its summary.
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def checkpoints(self) -> "Checkpoints":
        """The step's checkpoints: `with context.checkpoints.loop() as loop: …`."""
        from alignkit.checkpoints import Checkpoints

        if self.kept_checkpoints is None:  # a context that no engine made
            self.kept_checkpoints = Checkpoints(self.folder / "checkpoints", trackers=self.trackers)
        return self.kept_checkpoints

    def start_progress(self, total: int | None, unit: str = "step") -> None:
        """Tell the trackers how much work follows."""
        for tracker in self.trackers:
            tracker.start(self.step_id, total, unit)

    def log(self, index: int, metrics: Metrics) -> None:
        """Hand one row of metrics to the trackers, if it is new (see `Checkpoints.repeating`)."""
        if self.checkpoints.repeating:
            return
        for tracker in self.trackers:
            tracker.log(self.step_id, index, metrics)

    def records(self, reference: str, part: str) -> RecordFile[Any]:
        """The records `reference` names. `@id` alone means that step's `part`, `@id.other` another part."""
        path = self._part(reference, part)
        if not path.is_file():
            raise UserError(f"{reference} has no {part}", where=f"step {self.step_id}", hint="name another step")
        found: RecordFile[Any] = RecordFile(path, PARTS[part])
        if len(found) == 0:
            raise UserError(f"{reference} has no {part}: the file is empty", where=path)
        return found

    def heldout(self, reference: str, part: str) -> RecordFile[Any] | None:
        """The held-out half that belongs to `records(reference, part)`, if the step made one."""
        path = self._part(reference, part)
        beside = path.with_name(HELDOUT + path.name)
        return RecordFile(beside, PARTS[part]) if beside.is_file() and beside.stat().st_size else None

    def _part(self, reference: str, part: str) -> Path:
        named = f"{reference}.{part}" if reference.startswith("@") and "." not in reference else reference
        return self.resolve(named)
