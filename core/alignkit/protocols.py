"""What `Component.build` must return, one Protocol per kind. Shapes: see `alignkit.batches`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from alignkit.capabilities import BatchRelative as BatchRelative
from alignkit.capabilities import DrawsByRow as DrawsByRow
from alignkit.capabilities import Examines as Examines
from alignkit.capabilities import ExaminesData as ExaminesData
from alignkit.capabilities import PassesOver as PassesOver
from alignkit.capabilities import Preview as Preview
from alignkit.capabilities import Previews as Previews
from alignkit.capabilities import ReportsAnnotation as ReportsAnnotation
from alignkit.capabilities import ReportsFigures as ReportsFigures
from alignkit.capabilities import SharesTrunk as SharesTrunk
from alignkit.capabilities import SharesWork as SharesWork
from alignkit.capabilities import TaskByTask as TaskByTask
from alignkit.capabilities import TextOnly as TextOnly
from alignkit.capabilities import shares_work as shares_work

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from alignkit.batches import Head, Rollout, TokenBatch
    from alignkit.context import StepContext
    from alignkit.data.store import RecordFile
    from alignkit.kl import KLTerm
    from alignkit.records import Content, Judgement, Prompt, Record, Sampling, Task

Metrics = Mapping[str, float]
State: TypeAlias = "Mapping[str, Tensor | str | int | float | bool | None]"
"""A snapshot of something: flat, tensors and plain values, so that safetensors and JSON hold it."""


@runtime_checkable
class Critic(Protocol):
    """A value function over the states of a policy."""

    module: "nn.Module"

    def values(self, batch: "TokenBatch") -> "Tensor":
        """V of the state before each target token, [N], float32."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that transformers loads as a one-label sequence classifier."""
        ...


@runtime_checkable
class Policy(Protocol):
    """A language model with its tokenizer.

    `stop_ids` are all token ids that end a completion; `pad_id` may be one of them, masks are explicit everywhere.
    """

    module: "nn.Module"
    revision: str
    pad_id: int
    tokenizer_id: str
    stop_ids: frozenset[int]
    max_positions: int | None

    @property
    def device(self) -> "torch.device":
        """Where the weights are."""
        ...

    def encode_prompt(self, prompt: "Content") -> list[int]:
        """Token ids of a prompt, chat template and special tokens included."""
        ...

    def encode_completion(self, prompt: "Content", completion: "Content") -> list[int]:
        """Token ids that follow `encode_prompt(prompt)`, with the stop token at the end."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of completion ids, special tokens left out."""
        ...

    @property
    def head(self) -> "Head":
        """The vocabulary projection."""
        ...

    def hidden(self, batch: "TokenBatch") -> "tuple[Tensor, Head]":
        """Hidden states that predict the target tokens, [N, H], and the vocabulary projection."""
        ...

    def reference(self) -> "Policy":
        """A frozen view of the policy as it is now, in evaluation mode, for KL and log-ratios."""
        ...

    def critic(self, init: str | Path | None, keep_head: bool = False, shared: bool = False) -> Critic:
        """A critic; backbone from this policy, or from a reward model's folder `init`, whose head `keep_head` keeps.

        Otherwise the value head starts at zero. `shared`: only a head, on this policy's own hidden states (the result
        also satisfies `SharesTrunk`).
        """
        ...

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), config and tokenizer in the standard form."""
        ...


class Scores(Protocol):
    """A reward source that gives numbers (the alignment loop, evaluation)."""

    def score(self, rollout: "Rollout") -> "Tensor":
        """One score per completion, [B], float32; higher is better."""
        ...


class Annotates(Protocol):
    """A reward source that gives judgements (`collect`)."""

    def annotate(self, tasks: "Sequence[Task]") -> "Iterator[Judgement]":
        """Judgements in any order. Raises `Paused` when people have not answered enough tasks yet."""
        ...


class Whitening(NamedTuple):
    """How advantages are brought to mean 0 and variance 1 over the batch; see `alignkit.masked.whiten`."""

    variance: Literal["biased", "unbiased"] = "biased"


class Needs(NamedTuple):
    """What an advantage estimator asks of the loop.

    A critic; at least so many samples of each prompt; the score of each prompt's greedy completion; its advantages
    whitened before the optimizer stage sees them.
    """

    critic: bool = False
    samples_per_prompt: int = 1
    greedy_baseline: bool = False
    whiten: Whitening | None = None


class Advantage(Protocol):
    """Turns rewards into advantages and returns."""

    needs: Needs

    def __call__(
        self, rewards_BT: "Tensor", values_BT: "Tensor | None", mask_BT: "Tensor", group_B: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Advantages and returns, both [B, T], zero where `mask_BT` is False. `group_B` numbers the prompts.

        What stands outside the mask must not matter.

        `values_BT` are the critic's; with `needs.greedy_baseline` the score of the prompt's greedy completion at each
        token; else None.
        """
        ...


class FitTask(NamedTuple):
    """What a data stage works with. `policy()` builds the policy; `model_path` is its folder or hub name."""

    policy: "Callable[[], Policy]"
    model_path: str | None
    data: "RecordFile[Any]"
    eval_data: "RecordFile[Any] | None"
    context: "StepContext"


class DataStage(Protocol):
    """An optimizer stage that learns from records: pretrain, sft, reward_model, …

    `reads` names the part of a data step it takes (texts, demonstrations, preferences, labels).
    """

    reads: str

    def fit(self, task: FitTask) -> dict[str, Any]:
        """Train, write the model to `task.context.folder / "model"`, return entries for summary.json."""
        ...


class Experience(NamedTuple):
    """One batch of rollouts with what the loop computed for it; every [B, T] is zero outside its mask.

    `mask_BT` is True for completion tokens. `value_mask_BT`, `values_BT` and `returns_BT` may be one column wider: with
    `score_position: after_stop` the state behind a stop token has a value too. `values_BT` are the critic's, None
    without one. `kl_term` is what the stage has to add to its loss, None where token rewards have all of the KL.
    """

    rollout: "Rollout"
    mask_BT: "Tensor"
    logp_BT: "Tensor"
    ref_logp_BT: "Tensor"
    advantages_BT: "Tensor"
    value_mask_BT: "Tensor"
    values_BT: "Tensor | None"
    returns_BT: "Tensor"
    kl_term: "KLTerm | None" = None


@runtime_checkable
class Resumable(Protocol):
    """Something that can be taken up where it was left.

    The weights of the models that it changes are no part of its state: whoever takes it up gives those back first. A
    rollout stage is then made anew, started, restored, and its next update is bit for bit what it would have been.
    Other parts of the alignment loop (reward source, estimator, sampler, monitors) and trackers that satisfy it are
    saved and put back as well.
    """

    def state(self) -> State:
        """A snapshot, of which nothing changes later."""
        ...

    def restore(self, state: State) -> None:
        """Take over a `state()`. Raises UserError for one of another model."""
        ...


class RolloutStage(Resumable, Protocol):
    """An optimizer stage that learns from rollouts: ppo, …

    `adds_kl` says that it adds `Experience.kl_term` to its loss; the step refuses `kl.placement: loss` otherwise.
    """

    adds_kl: bool

    def start(
        self, policy: Policy, reference: Policy, critic: Critic | None, iterations: int, context: "StepContext"
    ) -> None:
        """Called once before the first update; makes optimizers and schedules."""
        ...

    def update(self, experience: Experience) -> dict[str, float]:
        """Change policy (and critic) by one batch; return metrics."""
        ...


class StepOutput(NamedTuple):
    """`outputs` maps part names ("" is the step itself) to paths inside the step's folder."""

    outputs: dict[str, str]
    summary: dict[str, Any]


class Step(Protocol):
    """A step of a recipe."""

    def run(self, context: "StepContext") -> StepOutput:
        """Do the work inside `context.folder`. An unfinished folder of the same step may be found there."""
        ...


class Sampler(Protocol):
    """Draws completions, from softmax(logits / temperature) or from a part of it that `Rollout.kept_BTK` names.

    The part is what `Sampling` (top-k, then top-p) and then the sampler's own options leave. One that has texts without
    ids satisfies `TextOnly` too.
    """

    def rollout(self, policy: Policy, prompts: "Sequence[Prompt]", sampling: "Sampling", seed: int) -> "Rollout":
        """One completion per entry of `prompts` (repeat a prompt for more); equal prompt ids share a group."""
        ...


class SourceRow(NamedTuple):
    """A raw row with the place it came from, for error messages (`file:line`)."""

    where: str
    row: Any


class DataFormat(Protocol):
    """Turns rows into records. Formats that make their own text have `generates = True` and get no rows."""

    generates: bool

    def records(self, rows: Iterable[SourceRow]) -> "Iterator[tuple[str, Record]]":
        """Pairs (part, record); raises `BadRow` with what is wrong for a row that cannot be used.

        After each BadRow it is called again on the rows that are left, until it comes to its end: what it remembers
        from row to row it keeps in `self`. A row may turn out bad later, even when all are read: those are named one
        at a time, each once, by `BadRow(problem, where=row.where, row=row.row)`. A complaint that takes no row and
        names no other place ends the step.
        """
        ...


class Kernel(Protocol):
    """Implementations of ops for some devices."""

    def unavailable(self, device: "torch.device") -> str | None:
        """Why this kernel cannot run on `device`, or None if it can."""
        ...

    def preference(self, device: "torch.device") -> int:
        """How much it recommends itself for `kernels: auto` on `device`: the highest is taken, 0 only when named."""
        ...

    def implementations(self) -> "Mapping[str, Callable[..., Any]]":
        """Op name -> function with the signature of the eager reference in `alignkit.ops`."""
        ...


class Tracker(Protocol):
    """Receives metrics while a run goes on."""

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """A piece of work of `total` units begins (None: unknown)."""
        ...

    def log(self, step_id: str, index: int, metrics: Metrics) -> None:
        """One row of metrics; `index` counts optimizer steps or iterations inside the step."""
        ...

    def close(self) -> None:
        """The step is over or failed."""
        ...


class Launcher(Protocol):
    """Starts the engine on processes and machines."""

    def launch(self, argv: Sequence[str]) -> int:
        """Run `alignkit` with these arguments and return its exit status."""
        ...
