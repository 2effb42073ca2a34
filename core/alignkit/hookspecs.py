"""The hooks a plugin can implement.

Registration hooks (one per kind) are called once at start and return an iterable of `Component`s. Lifecycle hooks are
broadcast while a run goes on. Transform hooks change a value and are chained in registration order.

A hook on its way out gets `@hookspec(warn_on_impl=AlignkitDeprecationWarning("…"))`; the manager names the plugin.

    from alignkit import Component, hookimpl

    @hookimpl
    def alignkit_advantages():
        return [Component(name="my_advantage", build=build, config=MyConfig, summary="…")]
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from alignkit.components import Component

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.batches import Rollout
    from alignkit.context import RunInfo
    from alignkit.records import Judgement

PROJECT_NAME = "alignkit"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


class Registration:
    """One hook per kind of component."""

    @hookspec
    def alignkit_policies(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Language models that can be sampled from and trained (Protocol `Policy`)."""

    @hookspec
    def alignkit_reward_sources(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Where scores and judgements come from (Protocols `Scores` and `Annotates`)."""

    @hookspec
    def alignkit_advantages(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Advantage estimators (Protocol `Advantage`)."""

    @hookspec
    def alignkit_optimizer_stages(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Stages that change weights: from a data set (`DataStage`) or from rollouts (`RolloutStage`)."""

    @hookspec
    def alignkit_steps(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Steps of a recipe (Protocol `Step`)."""

    @hookspec
    def alignkit_samplers(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Ways to sample completions from a policy (Protocol `Sampler`)."""

    @hookspec
    def alignkit_data_formats(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Forms of rows that become records (Protocol `DataFormat`)."""

    @hookspec
    def alignkit_kernels(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Implementations of the ops in `alignkit.ops` (Protocol `Kernel`)."""

    @hookspec
    def alignkit_trackers(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Receivers of metrics (Protocol `Tracker`)."""

    @hookspec
    def alignkit_launchers(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Ways to start a run on processes and machines (Protocol `Launcher`)."""

    @hookspec
    def alignkit_commands(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Further subcommands of `alignkit`; `build` returns a `click.Command`."""


class Lifecycle:
    """Broadcast to every plugin. A listener that raises is reported by name and does not stop the run."""

    @hookspec
    def alignkit_run_start(self, run: "RunInfo") -> None:
        """The recipe is checked and the run folder exists; no step has started."""

    @hookspec
    def alignkit_run_end(self, run: "RunInfo", summary: Mapping[str, Any]) -> None:
        """All steps are finished and `summary.json` is written."""

    @hookspec
    def alignkit_round_start(self, run: "RunInfo", round: int) -> None:
        """Round `round` (from 1) begins."""

    @hookspec
    def alignkit_round_end(self, run: "RunInfo", round: int) -> None:
        """Every step of round `round` is finished."""

    @hookspec
    def alignkit_step_start(self, run: "RunInfo", step_id: str, folder: Path) -> None:
        """A step that is not yet finished begins."""

    @hookspec
    def alignkit_step_end(self, run: "RunInfo", step_id: str, folder: Path) -> None:
        """The step's manifest says finished."""

    @hookspec
    def alignkit_iteration_start(self, run: "RunInfo", step_id: str, iteration: int) -> None:
        """An iteration of the alignment loop begins (from 1)."""

    @hookspec
    def alignkit_iteration_end(
        self, run: "RunInfo", step_id: str, iteration: int, metrics: Mapping[str, float]
    ) -> None:
        """An iteration of the alignment loop is over; `metrics` is what the tracker got."""

    @hookspec
    def alignkit_rollouts(self, run: "RunInfo", step_id: str, rollout: "Rollout") -> None:
        """Completions were sampled; read only."""

    @hookspec
    def alignkit_judgements(self, run: "RunInfo", step_id: str, judgements: "list[Judgement]") -> None:
        """A reward source gave judgements; read only."""

    @hookspec
    def alignkit_checkpoint(self, run: "RunInfo", step_id: str, folder: Path) -> None:
        """A model folder was written completely."""

    @hookspec
    def alignkit_failure(self, run: "RunInfo", step_id: str, error: BaseException) -> None:
        """A step ended with `error`."""


class Transform:
    """Chained in registration order: each implementation gets the value the one before returned.

    None means "unchanged". An exception stops the run: a reward that silently stays unshaped would be worse.
    """

    @hookspec
    def alignkit_shape_scores(self, run: "RunInfo", rollout: "Rollout", scores_B: "Tensor") -> "Tensor | None":
        """Change the scores of a batch of completions, before KL and other penalties. Shape [B]."""


HOOKSPEC_CLASSES = (Registration, Lifecycle, Transform)

REGISTRATION_HOOKS: dict[str, str] = {
    "policy": "alignkit_policies",
    "reward_source": "alignkit_reward_sources",
    "advantage": "alignkit_advantages",
    "optimizer_stage": "alignkit_optimizer_stages",
    "step": "alignkit_steps",
    "sampler": "alignkit_samplers",
    "data_format": "alignkit_data_formats",
    "kernel": "alignkit_kernels",
    "tracker": "alignkit_trackers",
    "launcher": "alignkit_launchers",
    "command": "alignkit_commands",
}
