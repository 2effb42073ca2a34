"""How the checks of kernels call the ops, and what they compare."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Head
from alignkit.testing.kernel_cases import RUNS, Case, Inputs, Results, Truth, truth
from alignkit.testing.kernel_losses import LossCase, loss_cases, loss_truth, named

Op = Callable[..., Any]
# The ops that the reference of the fused op is made of; an implementation has its own.
PARTS_OF_THE_REFERENCE = {"linear_logprob", "linear_kl", "policy_loss"}


class Use(NamedTuple):
    """An implementation's results, and what they are held to."""

    name: str
    dtype: torch.dtype
    found: Results
    expected: Truth


def uses(ops: Mapping[str, Op], cases: Sequence[Case], losses: Sequence[LossCase], device: str) -> Iterator[Use]:
    """Every use of every op that is offered."""
    for case in cases:
        for name, run in RUNS.items():
            if run.op in ops:
                found = run(ops[run.op], Inputs(case, device=device))
                yield Use(f"{name}, {case.name}", case.dtype, found, truth(name, case, device))
    for loss in losses:
        yield Use(loss.name, loss.dtype, loss(ops[loss.op], device), loss_truth(loss, device))


def recorded(op: Op, results: list[Tensor]) -> Op:
    """The op, with every tensor that it returns added to `results`."""

    def call(*arguments: Any, **options: Any) -> Any:
        found = op(*arguments, **options)
        results.extend(named(found).values())
        return found

    return call


def calls_of(reference: Op) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The arguments of a reference: by place as far as it takes them so, all by name, and without the optional ones."""
    parameters = [p for p in inspect.signature(reference).parameters.values() if p.name not in PARTS_OF_THE_REFERENCE]
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = {p.name: p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    yield by_place, by_name
    yield [], {p.name: p.name for p in parameters}
    yield [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty], {}


def without_tokens(name: str, op: Op, device: str) -> list[str]:
    """What is wrong with an op's results for a batch of no token."""
    problems = []
    for run_name, run in ((n, r) for n, r in RUNS.items() if r.op == name):
        case = Case("no token", tokens=0, vocabulary=37)
        for key, x in run(op, Inputs(case, device=device)).items():
            if x.numel() and bool((x != 0).any() | x.isnan().any()):
                problems.append(f"{run_name}: {key} of no token is {x.abs().max()}")
    for loss in (case for case in loss_cases(0) if case.op == name != "gae"):
        values = named(op(*(part for parts in loss.arguments(device) for part in parts)))
        problems += [f"{loss.name}: {key} of no token is {list(x.shape)}" for key, x in values.items() if x.numel()]
    return problems


def only(expected: Truth, which: Callable[[str], bool]) -> Truth:
    gold, eager = ({key: x for key, x in part.items() if which(key)} for part in (expected.gold, expected.eager))
    return Truth(gold, eager, expected.rounding)


def equal(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor):
        return torch.equal(x, y)
    if isinstance(x, Head):
        return all(equal(a, b) for a, b in zip(x, y, strict=True))
    return bool(x == y)
