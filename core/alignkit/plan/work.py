"""Operations, bytes and time of passes of a model over tokens. Pure arithmetic; P processes share the rows.

Matrix products alone are counted, two operations for each entry of a matrix and token (Kaplan et al. 2020, section
2.1), and attention over whole rows: what is masked counts too, as in torch's own counter. The backward pass takes twice
the operations of the forward pass; with low-rank adapters, whose matrix has no gradient, once; layers that are computed
again take one forward pass more.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from alignkit.plan.machine import Machine
from alignkit.plan.shape import ModelShape
from alignkit.preflight.memory import cache_per_token


@dataclass(frozen=True)
class Rows:
    """Rows that go through a model: how many, tokens of each, and how many of these the projection reads."""

    count: int
    tokens: int
    projected: int

    def micro_batches(self, max_tokens: int, processes: int) -> int:
        """How many each process gets; at least one, so that all gather weights alike."""
        every = math.ceil(self.count / max(1, max_tokens // self.tokens))
        return math.ceil(max(every, min(self.count, processes)) / processes)


@dataclass(frozen=True)
class Held:
    """A model as the processes hold it; `whole`: each holds all of it, as they do with low-rank adapters on it."""

    shape: ModelShape
    processes: int = 1
    width: int = 4
    adapter_rank: int | None = None
    checkpointed: bool = False
    whole: bool = False

    @property
    def parts(self) -> int:
        """Processes over which its weights are divided."""
        return 1 if self.whole or self.adapter_rank is not None else self.processes

    def gathered(self, times: int) -> float:
        """Bytes that a process receives when all weights are put together `times` times."""
        return times * self.width * self.shape.parameters * (self.parts - 1) / self.parts

    def reduced(self, times: int) -> float:
        """Bytes that a process sends when all gradients are added up: a part each, or, held whole, all in a ring."""
        gradients = self.shape.trained(self.adapter_rank) * (self.width if self.adapter_rank is None else 4)
        rounds = 1 if self.adapter_rank is None else 2
        return times * rounds * gradients * (self.processes - 1) / self.processes


@dataclass(frozen=True)
class Work:
    """One part of a step. Operations of all processes together; bytes that one reads from its memory and exchanges.

    `shared_by`: how many have something to do; there may be fewer rows than processes.
    """

    name: str
    flops: float
    read: float = 0.0
    exchanged: float = 0.0
    shared_by: int = 1


@dataclass(frozen=True)
class Bounds:
    """Seconds that a part takes at the least, by what limits it; 0 where the machine's figure is not known."""

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """The largest: the three may happen at once."""
        return max(self.compute, self.memory, self.network)

    @property
    def limit(self) -> str:
        """What it is bound by."""
        return max(("compute", "memory", "network"), key=lambda name: float(getattr(self, name)))


def forward_flops(shape: ModelShape, rows: Rows) -> float:
    """Of one forward pass: layers, attention, projection."""
    tokens = rows.count * rows.tokens
    layers = 2 * shape.multiplied * tokens
    attention = 4 * shape.layers * shape.attended * tokens * rows.tokens
    return layers + attention + 2 * shape.vocabulary * shape.hidden * rows.count * rows.projected


def training_flops(held: Held, rows: Rows) -> float:
    """Of a forward and a backward pass."""
    forward = forward_flops(held.shape, rows)
    again = forward_flops(held.shape, Rows(rows.count, rows.tokens, 0)) if held.checkpointed else 0.0
    return (3 if held.adapter_rank is None else 2) * forward + again


def reading(name: str, held: Held, rows: Rows, max_tokens: int) -> Work:
    """A pass without gradient in micro-batches: log-probs, values, scores."""
    batches = rows.micro_batches(max_tokens, held.processes)
    return Work(name, forward_flops(held.shape, rows), 0.0, held.gathered(batches), _busy(held, rows))


def training(name: str, held: Held, rows: Rows, max_tokens: int, steps: int) -> Work:
    """`steps` optimizer steps over `rows` together, with what AdamW reads and writes of its part."""
    each = Rows(math.ceil(rows.count / steps), rows.tokens, rows.projected)
    batches = steps * each.micro_batches(max_tokens, held.processes)
    # Adapters held whole are added up once a step, parts with each micro-batch.
    sums = batches if held.adapter_rank is None else steps
    moved = 7 * 4 * held.shape.trained(held.adapter_rank) / held.parts
    exchanged = held.gathered(2 * batches) + held.reduced(sums)
    return Work(name, training_flops(held, rows), steps * moved, exchanged, _busy(held, each))


def sampling(held: Held, prompts: Rows, answer: int, at_once: int) -> Work:
    """Completions of `answer` tokens of each row: every token reads all weights and the keys and values so far."""
    share = math.ceil(prompts.count / held.processes)
    at_once = min(at_once, share)
    batches = math.ceil(share / at_once)
    flops = forward_flops(held.shape, Rows(prompts.count, prompts.tokens, 1))
    # A token attends to what stands before it, on average to the prompt and half of the answer.
    length = prompts.tokens + answer / 2
    a_token = 2 * held.shape.multiplied + 2 * held.shape.vocabulary * held.shape.hidden
    flops += prompts.count * answer * (a_token + 4 * held.shape.layers * held.shape.attended * length)
    kept = at_once * length * cache_per_token(held.shape, held.width)
    read = batches * answer * (held.width * held.shape.parameters + kept)
    return Work("sampling", flops, read, held.gathered(1), _busy(held, prompts))


def _busy(held: Held, rows: Rows) -> int:
    """Processes that get rows."""
    return min(held.processes, rows.count)


def bounds(work: Work, machine: Machine, utilisation: float) -> Bounds:
    """Lower bounds on the time of `work`, of which each process does its share."""
    compute = work.flops / work.shared_by / (machine.flops * utilisation) if machine.flops else 0.0
    memory = work.read / machine.bandwidth if machine.bandwidth else 0.0
    network = work.exchanged / machine.interconnect if machine.interconnect else 0.0
    return Bounds(compute, memory, network)


def total(found: Iterable[Bounds]) -> float:
    """Seconds of parts that come one after the other."""
    return sum(one.seconds for one in found)
