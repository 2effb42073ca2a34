"""Times, memory and the ceilings of a device."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from alignkit_kernels.bench.cases import Setting

Function = Callable[[], object]
MAX_SAMPLES = 1000
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Times:
    """Milliseconds."""

    p20: float
    p50: float
    p80: float
    samples: int


def times(functions: Mapping[str, Function], device: torch.device, seconds: float) -> dict[str, Times]:
    """Each function for about `seconds`, taking turns, so that a change of the machine's speed meets all of them."""
    milliseconds: dict[str, list[float]] = {name: [] for name in functions}
    flush = torch.empty(CACHE_BYTES, dtype=torch.int8, device=device) if device.type == "cuda" else None
    for function in functions.values():
        function()  # compile, fill caches
    started = time.perf_counter()
    rounds = 0
    while rounds < 3 or time.perf_counter() - started < seconds * len(functions):
        for name, function in functions.items():
            milliseconds[name].append(_once(function, device, flush))
        rounds += 1
        if rounds == MAX_SAMPLES:
            break
    return {name: _summary(values) for name, values in milliseconds.items()}


def _once(function: Function, device: torch.device, flush: torch.Tensor | None) -> float:
    if device.type == "cuda":
        assert flush is not None
        flush.zero_()  # nothing of the inputs is left in the cache
        events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        events[0].record()
        function()
        events[1].record()
        torch.cuda.synchronize()
        return float(events[0].elapsed_time(events[1]))
    before = time.perf_counter()
    function()
    return (time.perf_counter() - before) * 1e3


def _summary(values: list[float]) -> Times:
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return Times(fifths[0], statistics.median(values), fifths[3], len(values))


def peak_bytes(function: Function, device: torch.device) -> int:
    """Most memory that tensors took at once, over what there was before, results included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kept = function()
        torch.cuda.synchronize()
        del kept
        return torch.cuda.max_memory_allocated() - before
    # the profiler's library would report each start and stop on the terminal
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = function()
        del kept
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best, measured in the same process: matrix products and copying."""

    flops_per_s: float
    bytes_per_s: float

    def floor_ms(self, flops: float, bytes: float) -> float:
        """No implementation can be faster."""
        return 1e3 * max(flops / self.flops_per_s, bytes / self.bytes_per_s)


def ceilings(setting: Setting, seconds: float) -> Ceilings:
    """A product of the setting's own shapes (of at most 4096 tokens), and a copy much larger than the caches."""
    device, shape = setting.device, setting.shape
    tokens = min(4096, shape.tokens)
    a = torch.randn(tokens, shape.hidden, device=device).to(setting.dtype)
    b = torch.randn(shape.vocabulary, shape.hidden, device=device).to(setting.dtype)
    out = torch.empty(tokens, shape.vocabulary, device=device, dtype=setting.dtype)
    source = torch.randn((2**30 if device.type == "cuda" else 2**27) // 4, device=device)
    target = torch.empty_like(source)
    found = times({"product": lambda: torch.mm(a, b.T, out=out), "copy": lambda: target.copy_(source)}, device, seconds)
    flops = 2.0 * tokens * shape.hidden * shape.vocabulary
    bytes = 2.0 * source.nbytes  # read and written
    return Ceilings(flops / (found["product"].p20 / 1e3), bytes / (found["copy"].p20 / 1e3))
