"""What can be seen of a training step before it runs: its options, its rows, its model, the room for it."""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from alignkit.context import StepContext
from alignkit.ops import EAGER
from alignkit.preflight import DataView, Finding, Sample, batch_findings, each
from alignkit.preflight.content import content_findings
from alignkit.preflight.disk import disk_findings
from alignkit.preflight.memory import activations, memory_findings, snapshot, trained
from alignkit.preflight.models import Traits, policy_facts, policy_traits, said_positions
from alignkit.preflight.rows import longest_row
from alignkit.preflight.sample import READ
from alignkit.protocols import Examines, ExaminesData
from alignkit.recipe.check import resolve

if TYPE_CHECKING:
    from alignkit_plugins.step_train.plugin import TrainConfig


class TrainExamination:
    """One look at the step."""

    def __init__(self, config: "TrainConfig", context: StepContext) -> None:
        self.config = config
        self.context = context
        self.stage: Any = context.build("optimizer_stage", config.optimizer_stage)
        self.options: Any = resolve(context.manager, "optimizer_stage", config.optimizer_stage).config

    def findings(self) -> Iterator[Finding]:
        """All of them, as far as the inputs are there."""
        if not hasattr(self.stage, "fit"):
            name = self.config.optimizer_stage.name
            yield Finding("R001", f"{name} learns from rollouts", "optimizer_stage", "use step: align")
            return
        yield from each(self._of_stage, self._of_records, self._of_rows, self._of_room)

    def _of_stage(self) -> Iterator[Finding]:
        if isinstance(self.stage, Examines):
            for finding in self.stage.examine(self.context):
                yield finding.inside("optimizer_stage")
        block = getattr(self.options, "block_length", None)
        positions = said_positions(self.config.policy, self.context)
        if block is not None and positions is not None and block > positions:
            what = f"blocks have {block} tokens, and the new model {positions} positions"
            yield Finding("R024", what, "optimizer_stage.block_length")

    def _of_records(self) -> Iterator[Finding]:
        data, heldout = self._samples
        yield from content_findings(data, heldout)
        for finding in batch_findings(self.options, data.total) if data.complete else ():
            yield finding.inside("optimizer_stage")

    def _of_rows(self) -> Iterator[Finding]:
        model = policy_facts(self.config.policy, self.context)
        if isinstance(self.stage, ExaminesData):
            for finding in self.stage.examine_data(DataView(model, *self._samples)):
                yield finding.inside("optimizer_stage")

    def _of_room(self) -> Iterator[Finding]:
        context, options = self.context, self.options
        model = policy_facts(self.config.policy, context)
        if model is None:
            return
        makes_policy = getattr(self.stage, "makes", "policy") == "policy"
        traits = policy_traits(self.config.policy, context) if makes_policy else Traits()
        data, _ = self._samples
        length = getattr(options, "block_length", None) or longest_row(model, data)
        length = min(length, getattr(options, "max_length", length))
        rows = getattr(options, "batch_size", 1) * (2 if self.stage.reads == "preferences" else 1)
        kept = activations(
            model,
            min(getattr(options, "micro_batch_tokens", rows * length), rows * length),
            whole_logits=makes_policy and context.ops.choice["linear_logprob"] == EAGER,
            half=context.recipe.precision == "bfloat16",
            checkpointed=traits.checkpointed,
        )
        whole = trained("weights with gradients and moments", model, traits.width, traits.adapter_rank)
        changing = traits.width * model.trained(traits.adapter_rank)
        copy = snapshot(changing, context.recipe.checkpoints, context.device)
        yield from memory_findings([whole, kept], context.device, copy)
        models = 1 + bool(getattr(options, "keep_best", None))
        weights = traits.width * model.parameters
        yield from disk_findings(context.run.folder, models * weights, changing, context.recipe.checkpoints.keep)

    @cached_property
    def _samples(self) -> tuple[Sample, Sample | None]:
        context, reads = self.context, self.stage.reads
        data = context.records(self.config.data, reads)
        named = self.config.eval_data
        heldout = context.records(named, reads) if named else context.heldout(self.config.data, reads)
        return Sample.of(data, READ), None if heldout is None else Sample.of(heldout, READ)
