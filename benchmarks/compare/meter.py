"""Times, losses and memory of one training process, the same for both sides. It needs nothing but Python and torch.

A step ends where the trainer reports it. Inside, spans are exclusive: what runs inside another span is taken off it, so
parts and the rest add up to the step. Spans of WORK count only where no other part than an update is open; what a
sampler or a scorer computes belongs to sampling and scoring.
"""

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

WORK = ("forward", "loss", "backward", "optimizer")
UPDATE = "update"
# Smaller passes are a loader's look at the model.
SMALL = 64


class Clock:
    """Seconds by part, of the step that is going on."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.cpu_seconds: Counter[str] = Counter()
        self.first_pass: tuple[float, float] | None = None
        self._open: list[str] = []
        self._since = 0.0
        self._since_cpu = 0.0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the time inside for `name`."""
        if name in WORK and any(part not in (*WORK, UPDATE) for part in self._open):
            yield
            return
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def timed(self, name: str | Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with a span around each call; the name may follow from the arguments."""

        @wraps(function)
        def inner(*arguments: Any, **options: Any) -> Any:
            with self.span(name if isinstance(name, str) else name(*arguments, **options)):
                return function(*arguments, **options)

        return inner

    def wrap(self, owner: Any, name: str, part: str | Callable[..., str]) -> None:
        """Put a timed function in the place of `owner.name`."""
        setattr(owner, name, self.timed(part, getattr(owner, name)))

    def wrap_backbone(self, cls: Any) -> None:
        """Time every forward pass of a transformers backbone, and note when the first large one began."""
        plain = cls.forward

        @wraps(plain)
        def forward(module: Any, *arguments: Any, **options: Any) -> Any:
            ids = options.get("input_ids", arguments[0] if arguments else None)
            if self.first_pass is None and ids is not None and ids.numel() > SMALL:
                self.first_pass = time.perf_counter(), time.process_time()
            with self.span("forward"):
                return plain(module, *arguments, **options)

        cls.forward = forward

    def inside(self, name: str) -> bool:
        """Whether this part is open."""
        return name in self._open

    def taken(self) -> dict[str, dict[str, float]]:
        """What was counted since the last call, by the clock and by the processor."""
        self._turn()
        found = {"parts": dict(self.seconds), "cpu_parts": dict(self.cpu_seconds)}
        self.seconds, self.cpu_seconds = Counter(), Counter()
        return found

    def _turn(self) -> None:
        _settle()
        now, cpu = time.perf_counter(), time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
            self.cpu_seconds[self._open[-1]] += cpu - self._since_cpu
        self._since, self._since_cpu = now, cpu


class Meter:
    """One row per step, and memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.steps: list[dict[str, Any]] = []
        self.modules_mb = 0.0
        self.begin_mb = 0.0
        self.peak_mb = 0.0
        self._last: float | None = None
        self._last_cpu = 0.0

    def loaded(self) -> None:
        """All modules are imported, no model is loaded."""
        self.modules_mb = rss_mb()

    def begin(self) -> None:
        """The first step begins."""
        self.clock.taken()
        self.begin_mb = rss_mb()
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    def step(self, figures: Mapping[str, float]) -> None:
        """A step is over."""
        assert self._last is not None
        _settle()
        now, cpu = time.perf_counter(), time.process_time()
        taken = {"seconds": now - self._last, "cpu_seconds": cpu - self._last_cpu}
        self.steps.append({**taken, **self.clock.taken(), "figures": dict(figures)})
        self._last, self._last_cpu, self.peak_mb = now, cpu, peak_mb()

    def write(self, path: Path, **more: Any) -> None:
        """Everything as JSON."""
        whole = None
        if self._last is not None and self.clock.first_pass is not None:
            whole = [
                end - began for end, began in zip((self._last, self._last_cpu), self.clock.first_pass, strict=True)
            ]
        found = {
            "steps": self.steps,
            "whole_seconds": whole,
            "modules_mb": self.modules_mb,
            "begin_mb": self.begin_mb,
            "peak_mb": self.peak_mb,
            "gpu_peak_mb": gpu_peak_mb(),
            "versions": versions(),
            **more,
        }
        path.write_text(json.dumps(found, default=float), encoding="utf-8")


def _settle() -> None:
    """Wait for a GPU, where one is used: what it still has to do belongs to the span that asked for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


METER = Meter()
"""Of this process."""


def rss_mb() -> float:
    """Memory of this process that is resident now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_mb() -> float:
    """The most so far. Not `ru_maxrss`, in which a child inherits what its parent had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def gpu_peak_mb() -> float | None:
    """The most that tensors took of a GPU's memory; None where none is used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.max_memory_allocated()) / 2**20


def versions() -> dict[str, str]:
    """Of the packages that matter, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torch", "transformers", "trl", "accelerate", "datasets"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
