"""From a recipe's steps to what each of them does, without their data: rows are taken to be as long as is allowed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.loop.config import LoopConfig
from alignkit.ops import EAGER
from alignkit.plan.lengths import prompt_tokens, row_tokens
from alignkit.plan.shape import ModelShape, shape_in, shape_of
from alignkit.plan.work import Held, Rows, Work, reading, sampling, training
from alignkit.preflight.memory import Part, activations, cache, frozen, peak, trained
from alignkit.preflight.models import Traits, policy_traits
from alignkit.protocols import TextOnly, shares_work
from alignkit.recipe.check import resolve, slots
from alignkit.recipe.model import ComponentSpec, StepSpec
from alignkit.records import Sampling
from alignkit.training.config import DataTrainingConfig
from alignkit.training.rollout_config import RolloutTrainingConfig

if TYPE_CHECKING:
    from alignkit.context import BuildContext

SIDES = 2  # of a preference, and of a comparison
ALONE = "by the first process alone"


@dataclass(frozen=True)
class Given:
    """What the command says besides the recipe."""

    processes: int = 1
    model: ModelShape | None = None
    prompt: int | None = None
    row: int | None = None


@dataclass(frozen=True)
class StepPlan:
    """What one step does: memory of a process, work of one unit (`per`), how many units (None: not known here)."""

    id: str
    step: str
    per: str
    units: int | None
    parts: tuple[Part, ...]
    work: tuple[Work, ...]
    assumed: tuple[str, ...] = field(default=())

    @property
    def memory(self) -> int:
        """Bytes that a process needs at once."""
        return peak(self.parts)


class Planner:
    """Plans the steps of one recipe."""

    def __init__(self, context: "BuildContext", given: Given) -> None:
        self.context, self.given = context, given
        self.recipe = context.recipe

    def steps(self, ids: Sequence[str]) -> Iterator[StepPlan | str]:
        """A plan of each of these steps that trains or samples, and the ids of those that do neither."""
        for step in (step for step in self.recipe.steps if step.id in ids):
            config: Any = resolve(self.context.manager, "step", step.component).config
            yield self._step(step, config) or step.id

    def _step(self, step: StepSpec, config: Any) -> StepPlan | None:
        stage = getattr(config, "optimizer_stage", None)
        options: Any = None
        if isinstance(stage, ComponentSpec):
            options = resolve(self.context.manager, "optimizer_stage", stage).config
        if isinstance(config, LoopConfig) and isinstance(options, RolloutTrainingConfig):
            return self._alignment(step, config, options)
        if isinstance(options, DataTrainingConfig):
            return self._training(step, config, options)
        if isinstance(getattr(config, "sampling", None), Sampling) and self._draws_here(config):
            return self._sampling(step, config)
        return None

    def _model(self, policy: Any) -> tuple[ModelShape, Traits]:
        """The policy of a step. A reference, or a path, is the recipe's policy with other weights."""
        spec = policy if isinstance(policy, ComponentSpec) else self.recipe.policy
        config: Any = resolve(self.context.manager, "policy", spec).config
        path, new = getattr(config, "path", None), getattr(config, "new_model", None)
        if isinstance(policy, str) and not policy.startswith("@"):
            path = policy
        if isinstance(path, str) and path.startswith("@"):
            path, new = self._origin()
        traits = policy_traits(policy, self.context)
        if self.given.model is not None:
            return self.given.model, traits
        if new is not None:
            return shape_of(new, "policy"), traits
        folder = Path(str(path)).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError(f"{path} is no folder on this disk", where="policy", hint="give --model-config FILE.json")
        return shape_in(folder), traits

    def _origin(self) -> tuple[Any, Any]:
        """Path or config of the model that the recipe begins with."""
        config: Any = resolve(self.context.manager, "policy", self.recipe.policy).config
        return getattr(config, "path", None), getattr(config, "new_model", None)

    def _held(self, shape: ModelShape, traits: Traits) -> Held:
        return Held(shape, self.given.processes, traits.width, traits.adapter_rank, traits.checkpointed)

    def _kept(self, held: Held, rows: Rows, max_tokens: int, whole_logits: bool) -> Part:
        """Activations of the largest micro-batch, and what is gathered for it."""
        share = max(1, min(max_tokens // rows.tokens, -(-rows.count // held.processes)))
        half = self.recipe.precision == "bfloat16"
        kept = activations(
            held.shape, share * rows.tokens, whole_logits=whole_logits, half=half, checkpointed=held.checkpointed
        )
        return kept._replace(name="activations and gathered layers", bytes=kept.bytes + gathered(held))

    def _training(self, step: StepSpec, config: Any, options: DataTrainingConfig) -> StepPlan:
        stage: Any = self.context.build("optimizer_stage", config.optimizer_stage)
        makes_policy = getattr(stage, "makes", "policy") == "policy"
        shape, traits = self._model(getattr(config, "policy", None))
        held = self._held(shape, traits if makes_policy else Traits())
        divides = shares_work(stage, self.context)
        held = held if divides else replace(held, processes=1)
        limit = getattr(options, "block_length", None) or getattr(options, "max_length", None)
        length, said = row_tokens(self.given.row, limit, shape.max_positions, step.id)
        count = options.batch_size * (SIDES if getattr(stage, "reads", "") == "preferences" else 1)
        rows = Rows(count, length, length if makes_policy else 0)
        whole = makes_policy and self.context.ops.choice["linear_logprob"] == EAGER
        assumed = [*said] + [f"{SIDES} rows each"] * (count > options.batch_size)
        work = training("update", held, rows, options.micro_batch_tokens, 1)
        assumed += [] if divides else [ALONE]
        return StepPlan(
            step.id, step.step, f"step of {options.batch_size}", None,
            (divided(held), self._kept(held, rows, options.micro_batch_tokens, whole)), (work,), tuple(assumed),
        )  # fmt: skip

    def _alignment(self, step: StepSpec, config: Any, options: RolloutTrainingConfig) -> StepPlan:
        shape, traits = self._model(getattr(config, "policy", None))
        policy = self._held(shape, traits)
        needs = self.context.build("advantage", config.advantage).needs
        own_critic = needs.critic and getattr(config, "critic", "separate") == "separate"
        critic = Held(shape, self.given.processes, 4, None, traits.checkpointed)
        rewards = list(self._scorers(getattr(config, "reward_source", None)))
        monitors = [name for spec in getattr(config, "monitor", {}).values() for name in self._scorers(spec)]
        answer = config.sampling.max_length
        prompt, assumed = prompt_tokens(
            self.given.prompt, config.max_prompt_length, answer, shape.max_positions, step.id
        )
        rows = Rows(config.batch_size, prompt + answer, answer)
        scored = Rows(rows.count, rows.tokens, 0)
        reference = replace(policy, adapter_rank=None, whole=policy.parts == 1)
        tokens, steps = options.micro_batch_tokens, options.epochs * options.minibatches
        every = Rows(rows.count * options.epochs, rows.tokens, rows.projected)
        work = [
            self._drawn(policy, config, prompt, answer),
            reading("log-probs", policy, rows, config.micro_batch_tokens),
            reading("reference", reference, rows, config.micro_batch_tokens),
        ]
        if needs.critic:
            work.append(reading("values", critic if own_critic else policy, scored, config.micro_batch_tokens))
        scorer = Held(shape, self.given.processes, whole=True)
        work += [reading(f"scores ({name})", scorer, scored, config.micro_batch_tokens) for name in rewards]
        work.append(training("update", policy, every, tokens, steps))
        parts = [divided(policy, "policy")]
        if traits.adapter_rank is None or getattr(config, "reference", None) is not None:
            parts.append(_share(frozen("reference", shape, traits.width), reference.parts))
        if own_critic:
            work.append(training("critic", critic, Rows(every.count, every.tokens, 0), tokens, steps))
            parts.append(divided(critic, "critic"))
        parts += [frozen(f"scoring model {name}", shape, 4) for name in (*rewards, *monitors)]
        whole = self.context.ops.choice["linear_logprob"] == EAGER
        share = Rows(-(-rows.count // options.minibatches), rows.tokens, rows.projected)
        kept = self._kept(policy, share, tokens, whole)
        kept = kept._replace(bytes=kept.bytes * (2 if own_critic else 1))
        return StepPlan(
            step.id, step.step, f"iteration of {config.batch_size}", config.iterations,
            (*parts, kept, self._cached(policy, config, prompt + answer)), tuple(work), assumed,
        )  # fmt: skip

    def _sampling(self, step: StepSpec, config: Any) -> StepPlan:
        """One process alone draws and writes. Without a `limit` only the data says how many: then one batch."""
        shape, traits = self._model(getattr(config, "policy", None))
        held = Held(shape, 1, traits.width)
        answer = config.sampling.max_length
        allowed = getattr(config, "max_prompt_length", None)
        prompt, said = prompt_tokens(self.given.prompt, allowed, answer, shape.max_positions, step.id)
        limit, at_once = getattr(config, "limit", None), self._at_once(config)
        each = at_once if limit is None else limit * getattr(config, "samples_per_prompt", 1)
        parts = [frozen("model", shape, traits.width), cache(shape, min(each, at_once), prompt + answer, traits.width)]
        compared = getattr(config, "against", None) is not None
        if compared:
            parts.append(frozen("model compared with", shape, traits.width))
        whole = limit is not None
        count = SIDES * each if whole and compared else each
        work = sampling(held, Rows(count, prompt, 0), answer, at_once)
        return StepPlan(
            step.id, step.step, f"{'' if whole else 'batch of '}{count} completions", 1 if whole else None,
            tuple(parts), (work,), (*said, ALONE) if whole else (*said, "how many batches, the data says", ALONE),
        )  # fmt: skip

    def _drawn(self, policy: Held, config: Any, prompt: int, answer: int) -> Work:
        return sampling(policy, Rows(config.batch_size, prompt, 0), answer, self._at_once(config))

    def _cached(self, held: Held, config: Any, length: int) -> Part:
        """Keys and values, and the whole weights, which each process gathers to sample."""
        rows = min(-(-config.batch_size // held.processes), self._at_once(config))
        kept = cache(held.shape, rows, length, held.width)
        whole = held.width * held.shape.parameters if held.parts > 1 else 0
        return kept._replace(bytes=kept.bytes + whole)

    def _at_once(self, config: Any) -> int:
        spec = getattr(config, "sampler", None)
        sampler: Any = resolve(self.context.manager, "sampler", spec).config if spec is not None else None
        return int(getattr(sampler, "batch_size", None) or getattr(config, "batch_size", None) or 1)

    def _draws_here(self, config: Any) -> bool:
        """Whether a model of the recipe draws: there are no tasks yet, and the sampler has no model of its own."""
        spec = getattr(config, "sampler", None)
        drawing = None if spec is None else self.context.build("sampler", spec)
        return getattr(config, "tasks", None) is None and not isinstance(drawing, TextOnly)

    def _scorers(self, spec: Any) -> Iterator[str]:
        """References to the reward models among a reward source's options and those of sources inside it."""
        if not isinstance(spec, ComponentSpec):
            return
        for value in spec.options.values():
            if isinstance(value, str) and value.startswith("@"):
                yield value
        for kind, inner, _ in slots(resolve(self.context.manager, "reward_source", spec).config):
            if kind == "reward_source":
                yield from self._scorers(inner)


def divided(held: Held, name: str = "weights, gradients and moments") -> Part:
    """A trained model's part of one process."""
    return _share(trained(name, held.shape, held.width, held.adapter_rank), held.parts)


def gathered(held: Held) -> int:
    """What is whole at once while a layer works: what is in no layer, this layer and the next, and their gradients."""
    if held.parts == 1:
        return 0
    return held.width * (2 * held.shape.other + 3 * held.shape.layer)


def _share(part: Part, processes: int) -> Part:
    return part._replace(bytes=-(-part.bytes // processes), gradients=part.gradients // processes)
