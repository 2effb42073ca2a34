"""Measures the implementations of one op in one setting."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from alignkit.manager import PluginManager
from alignkit.ops import EAGER, OPS, build_kernel
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
    left_out: dict[str, str] = {}
    for registered in manager.all("kernel"):
        name = registered.component.name
        if wanted and name not in wanted:
            continue
        kernel = build_kernel(manager, name)
        problem = kernel.unavailable(device)
        if problem is None:
            found[name] = kernel.implementations()
        else:
            left_out[name] = problem
    return found, left_out


def measure(op: str, setting: Setting, ceilings: Ceilings, found: Implementations, seconds: float) -> Iterator[Row]:
    """A row for each implementation that has the op."""
    functions = {name: own[op] for name, own in found.items() if op in own}
    return measure_problem(make_problem(op, setting), setting, ceilings, functions, seconds)


def measure_problem(
    problem: Problem, setting: Setting, ceilings: Ceilings, functions: Mapping[str, Callable[..., Any]], seconds: float
) -> Iterator[Row]:
    """A row for each function. One that fails has a row that says how, and the others are still measured."""
    truth: Results | None = None
    checked: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name, function in functions.items():
        try:
            results = problem.run(function)
            truth = problem.truth(setting.shape.vocabulary) if truth is None else truth
            checked[name] = {"error": error(results, truth)}
            del results
            checked[name]["peak_bytes"] = peak_bytes(partial(problem.run, function), setting.device)
        except Exception as reason:  # a third party's function, or memory
            failed[name] = f"{type(reason).__name__}: {reason}".splitlines()[0]
            checked.pop(name, None)
    timed = times({name: partial(problem.run, functions[name]) for name in checked}, setting.device, seconds)
    for name in functions:
        row = Row(
            problem.op,
            name,
            str(setting.dtype).removeprefix("torch."),
            setting.shape.tokens,
            setting.shape.hidden,
            setting.shape.vocabulary,
            setting.masked,
            bool(problem.leaves),
            floor_ms=ceilings.floor_ms(problem.work.flops, problem.work.bytes),
            problem=failed.get(name),
        )
        yield _with_figures(row, timed, checked)


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
