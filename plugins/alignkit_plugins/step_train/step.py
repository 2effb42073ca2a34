"""The step `train`: an optimizer stage over a data set."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignkit.answers import checked_figures
from alignkit.context import BuildContext, StepContext
from alignkit.errors import UserError
from alignkit.preflight import Finding
from alignkit.protocols import DataStage, FitTask, StepOutput, shares_work

if TYPE_CHECKING:
    from alignkit_plugins.step_train.plugin import TrainConfig


class Train:
    """Satisfies `alignkit.protocols.Step`."""

    def __init__(self, config: "TrainConfig") -> None:
        self.config = config

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """Options, rows, model and room, before it runs."""
        from alignkit_plugins.step_train.examine import TrainExamination

        return TrainExamination(self.config, context).findings()

    def shares_work(self, context: BuildContext) -> bool:
        """Where the stage does."""
        return shares_work(context.build("optimizer_stage", self.config.optimizer_stage), context)

    def run(self, context: StepContext) -> StepOutput:
        """Fit the stage; the model is the step's output, and `policy` too unless the stage makes another model."""
        stage: DataStage = context.build("optimizer_stage", self.config.optimizer_stage)
        name = self.config.optimizer_stage.name
        if not hasattr(stage, "fit"):
            raise UserError(
                f"optimizer stage {name!r} learns from rollouts",
                where=f"step {context.step_id}",
                hint="use step: align",
            )
        data = context.records(self.config.data, stage.reads)
        named = self.config.eval_data
        eval_data = context.records(named, stage.reads) if named else context.heldout(self.config.data, stage.reads)
        policy = self.config.policy
        spec = context.policy_spec(policy)
        task = FitTask(lambda: context.policy(policy), spec.options.get("path"), data, eval_data, context)
        figures = checked_figures(stage.fit(task), context.manager.get("optimizer_stage", name).described)
        outputs = {"": "model"}
        if getattr(stage, "makes", "policy") == "policy":
            outputs["policy"] = "model"
        return StepOutput(outputs | context.kept, {name: {**figures, **context.counts}})
