"""`alignkit` with a meter on the optimizer: bytes of what this process holds, seconds from step to step."""

import atexit
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

from alignkit import cli
from alignkit.context import StepContext
from alignkit.modeling.sharding import local
from alignkit.training.optimizer import Optimizer

found: dict[str, Any] = {}
now: dict[str, Any] = {"step": "", "last": 0.0}
whole_step, start_progress = Optimizer.step, StepContext.start_progress


def peak() -> int:
    """The process's largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """Its resident size now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def begun(self: StepContext, *arguments: Any, **options: Any) -> None:
    """A loop begins."""
    now["step"], now["last"] = self.step_id, time.perf_counter()
    found[self.step_id] = {"seconds": [], "rss_before": resident()}
    start_progress(self, *arguments, **options)


def metered(self: Optimizer) -> float:
    """One step, with the bytes of weights, gradients and moments that are there right before it."""
    own = found[now["step"]]
    if len(own["seconds"]) == 1:
        tensors = [t for p in self.parameters for t in (p.data, p.grad) if t is not None]
        tensors += [t for p in self.parameters for t in self._adam.state[p].values() if t.ndim]
        own["bytes"] = sum(local(t).numel() * t.element_size() for t in tensors)
    norm = whole_step(self)
    own["seconds"].append(time.perf_counter() - now["last"])
    now["last"] = time.perf_counter()
    return norm


def write() -> None:
    """At the end of the process."""
    Path(os.environ["SCALE_METER"]).write_text(json.dumps({**found, "rss": peak()}))


if __name__ == "__main__":
    StepContext.start_progress = begun  # type: ignore[method-assign]
    Optimizer.step = metered  # type: ignore[method-assign]
    atexit.register(write)
    cli.main()
