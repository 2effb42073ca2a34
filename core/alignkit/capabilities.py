"""What a component may satisfy besides the Protocol of its kind; `alignkit.protocols` has these names too.

A component that does not is still whole: whoever asks looks with `isinstance`, and does without.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.batches import Rollout
    from alignkit.context import BuildContext, StepContext
    from alignkit.preflight import DataView, Finding
    from alignkit.protocols import Policy
    from alignkit.records import Prompt, Record, Sampling


@runtime_checkable
class SharesTrunk(Protocol):
    """A critic that is a head on the policy's own hidden states: its `module` is that head alone."""

    def values_of(self, h_NH: "Tensor") -> "Tensor":
        """V of each hidden state of the policy, [N], float32; the gradient goes on into the policy."""
        ...


@runtime_checkable
class ReportsFigures(Protocol):
    """A source of scores that has more to say about them than their mean."""

    def figures(self) -> Mapping[str, float]:
        """Figures of the last `score` call, logged beside the loop's own, for example `reward/length`."""
        ...


@runtime_checkable
class BatchRelative(Protocol):
    """A source that may score a completion by the others beside it, so that scores of two batches do not compare."""

    @property
    def batch_relative(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class ReportsAnnotation(Protocol):
    """A source of judgements that has more to say about them than what they are."""

    def annotation_figures(self) -> Mapping[str, Any]:
        """Figures of the last `annotate`, for the summary of `collect`: failures, cost, a snapshot's hash."""
        ...


@runtime_checkable
class TaskByTask(Protocol):
    """A source of judgements that comes to the tasks one after the other.

    With `task_by_task`, `annotate` yields all judgements of a task before the first of the next, in the order of the
    tasks, and what it says of one does not depend on which others it is asked about. `collect` writes them down as they
    come, and a run that goes on asks about the tasks that are left. Any other source is asked about all of them again.
    """

    @property
    def task_by_task(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class TextOnly(Protocol):
    """A sampler of texts without token ids, from a model that it brings itself, such as one behind a server.

    Its `rollout` is given None as policy and returns a `Rollout` with `text_only`. `collect` and `evaluate` take such a
    sampler; what learns from the ids of a rollout refuses it before the run.
    """

    def drawn_from(self) -> str:
        """Names the model that answers, for records: what it says of itself. Raises UserError or Fault if it is silent.

        Called before the first `rollout`; building the sampler asks nobody.
        """
        ...


@runtime_checkable
class DrawsByRow(Protocol):
    """A sampler of which each row's draws follow from the seed and the row's number alone.

    Its `rollout` also takes `rows`, the numbers of the prompts in a larger batch, so that a batch that several
    processes divide is drawn as one process would. Any other sampler gets a seed of its own on each process.
    """

    draws_by_row: bool

    def rollout(
        self,
        policy: "Policy",
        prompts: "Sequence[Prompt]",
        sampling: "Sampling",
        seed: int,
        rows: "Sequence[int] | None" = None,
    ) -> "Rollout":
        """As `Sampler.rollout`; without `rows` the prompts are numbered from 0."""
        ...


@runtime_checkable
class Examines(Protocol):
    """A step or optimizer stage that can say before its work what is likely to be wrong with it.

    Called by `alignkit check` and before a run as far as the inputs are there, and again right before the step runs. It
    is quick (it looks at a sample, and says how large that is), changes nothing, and leaves no model in memory. The
    first input that is not there yet (`context.resolve`, `context.records`) ends it; what it said until then counts.
    """

    def examine(self, context: "StepContext") -> "Iterable[Finding]":
        """Findings with a code of `alignkit.preflight.CODES`, each at an option of its own or at a file."""
        ...


class Preview(NamedTuple):
    """Part -> its first records. `complete`: these are all parts and records that the step will have.

    `reasons`: part that will not be there -> why, as far as that is known.
    """

    parts: "Mapping[str, Sequence[Record]]"
    complete: bool
    reasons: "Mapping[str, str]" = MappingProxyType({})


@runtime_checkable
class Previews(Protocol):
    """A step that can show the beginning of its result before it has run, for later steps to be looked at with."""

    def preview(self, context: "StepContext") -> Preview:
        """What is known before the run; quick, and without a trace. Parts that are not known yet are left out."""
        ...


@runtime_checkable
class ExaminesData(Protocol):
    """A data stage that also looks at rows of its data, as the model that it starts from reads them."""

    def examine_data(self, view: "DataView") -> "Iterable[Finding]":
        """Findings about the rows: cut, without an end token, unlike what the model was made for."""
        ...


@runtime_checkable
class PassesOver(Protocol):
    """A rollout stage whose schedules count updates that were planned, whether they come or not."""

    def pass_over(self) -> None:
        """The batch of this iteration was left out: go on as after an `update` that changed no weight."""
        ...


@runtime_checkable
class SharesWork(Protocol):
    """A step, optimizer stage or reward source that several processes do together, each a part of its work.

    Any other is done by the first process alone while the others wait for what comes of it. One that shares runs on
    every process with the same inputs, comes to the same decisions there, and puts together what was divided
    (`alignkit.processes`, `training.batching.shared`, `modeling.sharding.save_model`).
    """

    def shares_work(self, context: "BuildContext") -> bool:
        """Whether it does, with these options."""
        ...


def shares_work(component: object, context: "BuildContext") -> bool:
    """Whether several processes may do the component's work together."""
    return isinstance(component, SharesWork) and component.shares_work(context)
