"""Measures the implementations of one op in one setting."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from alignkit.manager import PluginManager
from alignkit.ops import EAGER, OPS, usable_kernels
from alignkit_kernels.bench.cases import Problem, Results, Setting, error, make_problem
from alignkit_kernels.bench.measure import Ceilings, peak_bytes, times

Implementations = dict[str, Mapping[str, Callable[..., Any]]]


@dataclass(frozen=True)
class Row:
    """One line of the table. Without figures where the implementation failed; `problem` says how."""

    op: str
    impl: str
    dtype: str
    T: int
    H: int
    V: int
    mask: float
    backward: bool
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    samples: int = 0
    peak_bytes: int | None = None
    floor_ms: float | None = None
    error: float | None = None
    speedup: float | None = None
    problem: str | None = None


def implementations(
    manager: PluginManager, device: torch.device, wanted: tuple[str, ...]
) -> tuple[Implementations, dict[str, str]]:
    """Name -> its ops, eager first; and name -> why it is left out. `wanted` empty: every installed one."""
    found: Implementations = {EAGER: OPS}
    usable, missed = usable_kernels(manager, device)
    for name, _, kernel in usable:
        if not wanted or name in wanted:
            found[name] = kernel.implementations()
    left_out = {name: problem for name, problem in missed.items() if not wanted or name in wanted}
    return found, left_out


def measure(op: str, setting: Setting, ceilings: Ceilings, found: Implementations, seconds: float) -> Iterator[Row]:
    """A row for each implementation that has the op."""
    functions = {name: own[op] for name, own in found.items() if op in own}
    try:
        problem = make_problem(op, setting)
    except Exception as reason:  # memory
        yield from (replace(_row(op, name, setting), problem=_said(reason, "the inputs")) for name in functions)
        return
    yield from measure_problem(problem, setting, ceilings, functions, seconds)


def measure_problem(
    problem: Problem, setting: Setting, ceilings: Ceilings, functions: Mapping[str, Callable[..., Any]], seconds: float
) -> Iterator[Row]:
    """A row for each function. One that fails has a row that says how, and the others are still measured.

    Where the truth cannot be computed (memory), the errors are missing and `problem` says so.
    """
    failed: dict[str, str] = {}
    checked: dict[str, dict[str, Any]] = {}
    truth: Results | None = None
    try:
        truth = problem.truth(setting.shape.vocabulary)
    except Exception as reason:
        failed |= dict.fromkeys(functions, _said(reason, "the truth in float64"))
    for name, function in functions.items():
        try:
            found = None
            if truth is not None:
                results = [x[problem.checked] if x.dim() else x for x in problem.run(function)]
                found = error(results, truth)
                del results
            checked[name] = {"error": found, "peak_bytes": peak_bytes(partial(problem.run, function), setting.device)}
        except Exception as reason:  # a third party's function, or memory
            failed[name] = _said(reason)
    del truth
    timed = times({name: partial(problem.run, functions[name]) for name in checked}, setting.device, seconds)
    floor_ms = ceilings.floor_ms(problem.work.flops, problem.work.bytes)
    for name in functions:
        row = replace(_row(problem.op, name, setting), backward=bool(problem.leaves), floor_ms=floor_ms)
        yield _with_figures(replace(row, problem=failed.get(name)), timed, checked)


def _row(op: str, name: str, setting: Setting) -> Row:
    dtype, shape = str(setting.dtype).removeprefix("torch."), setting.shape
    return Row(op, name, dtype, shape.tokens, shape.hidden, shape.vocabulary, setting.masked, setting.backward)


def _said(reason: Exception, what: str = "") -> str:
    return (f"{what}: " if what else "") + f"{type(reason).__name__}: {reason}".splitlines()[0]


def _with_figures(row: Row, timed: Mapping[str, Any], checked: Mapping[str, dict[str, Any]]) -> Row:
    if row.impl not in timed:
        return row
    t = timed[row.impl]
    eager = timed.get(EAGER)
    return replace(
        row,
        p20_ms=t.p20,
        p50_ms=t.p50,
        p80_ms=t.p80,
        samples=t.samples,
        speedup=None if eager is None else eager.p50 / t.p50,
        **checked[row.impl],
    )
