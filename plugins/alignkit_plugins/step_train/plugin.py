"""Registers the step `train`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.recipe import ComponentSpec, SlotOf

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class TrainConfig(Config):
    """An optimizer stage over a data set."""

    optimizer_stage: Annotated[ComponentSpec, SlotOf("optimizer_stage")] = Field(description="pretrain, sft, …")
    data: str = Field(description="@step or @step.part with the records to learn from")
    eval_data: str | None = Field(None, description="held-out records; by default those the data step held back")
    policy: str | ComponentSpec | None = Field(None, description="@step or folder to start from; default: the recipe's")


def build(config: TrainConfig, context: "BuildContext") -> Any:
    """Make the step."""
    from alignkit_plugins.step_train.step import Train

    return Train(config)


@hookimpl
def alignkit_steps() -> Iterable[Component]:
    """Training on records."""
    summary = "trains a model on records with an optimizer stage (pretrain, sft, reward_model, …)"
    return [Component(name="train", build=build, config=TrainConfig, summary=summary)]
