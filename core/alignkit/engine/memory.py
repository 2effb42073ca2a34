"""What to say when memory runs out: the numbers, and what to change, the cheapest first.

The frames between the engine and the error still hold what was being worked on, so batch and model are read from there.
"""

import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import BaseModel

from alignkit.components import Kind
from alignkit.errors import Fault, said_by
from alignkit.manager import PluginManager
from alignkit.recipe.check import resolve, slots
from alignkit.recipe.model import ComponentSpec

UNITS = {"": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
ASKED = re.compile(r"(?:[Tt]ried to allocate|[Uu]nable to allocate)\s+([\d.]+)\s*(bytes|[KMGTP]iB)?")
# Options of any component that say how much is in memory at once.
SIZES = ("batch_size", "micro_batch_tokens", "samples_per_prompt", "max_length", "max_prompt_length")
# The first two change results by rounding only; a step goes on over them. The others make it another step.
ADVICE = (
    "lower micro_batch_tokens (of the step, or of its optimizer_stage): smaller forward passes",
    "policy.gradient_checkpointing=true: less is kept for the backward pass, a third slower",
    "policy.lora={}: no gradients and moments of the whole model, and no second copy as reference",
    "critic: shared, a head instead of a model of its own",
    "lower batch_size of the sampler",
    "precision: bfloat16",
)
GOES_ON = (
    "after 1 or 2 the same command goes on from the last checkpoint; after the others the step is done again (--from)"
)


def memory_fault(error: BaseException, sizes: Mapping[str, str] | None = None) -> Fault:
    """The message for an error that `alignkit.errors.out_of_memory` knows; `sizes` are those of `option_sizes`."""
    on_cuda = "CUDA" in said_by(error) or type(error).__module__.startswith("torch.cuda")
    usage = _cuda() if on_cuda else _host()
    numbers = {"asked for": _gib(asked_bytes(error)), **usage, **_work(error), **(sizes or {})}
    shown = "; ".join(f"{name} {value}" for name, value in numbers.items() if value is not None)
    place = "on the GPU" if on_cuda else "in this process"
    hint = "\n     ".join([*(f"{n}. {text}" for n, text in enumerate(ADVICE, 1)), GOES_ON])
    return Fault(f"out of memory {place}: {shown}", hint=hint)


def asked_bytes(error: BaseException) -> int | None:
    """How much the failed request was, as far as the message says."""
    found = ASKED.search(said_by(error))
    return None if found is None else int(float(found[1]) * UNITS[found[2] or ""])


def option_sizes(manager: PluginManager, kind: Kind, spec: ComponentSpec, path: str = "") -> dict[str, str]:
    """`optimizer_stage.micro_batch_tokens` -> value, for every option in `SIZES` of a component and those inside it."""
    config = resolve(manager, kind, spec).config
    found = _sizes(config, path)
    for inner_kind, inner, place in slots(config):
        found |= option_sizes(manager, inner_kind, inner, path + "".join(f"{part}." for part in place))
    return found


def _sizes(config: BaseModel, path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in config:
        if isinstance(value, BaseModel) and not isinstance(value, ComponentSpec):
            found |= _sizes(value, f"{path}{name}.")
        elif isinstance(value, int) and name in SIZES:
            found[f"{path}{name}"] = str(value)
    return found


def _work(error: BaseException) -> dict[str, str | None]:
    """Parameters of the largest model and size of the batch in hand, from the frames that the error passed."""
    torch: Any = sys.modules.get("torch")
    batches: Any = sys.modules.get("alignkit.batches")
    if torch is None or batches is None:
        return {}
    parameters, batch = 0, None
    for value in _locals(error):
        module = value if isinstance(value, torch.nn.Module) else getattr(value, "__dict__", {}).get("module")
        if isinstance(module, torch.nn.Module):
            parameters = max(parameters, sum(p.numel() for p in module.parameters()))
        if isinstance(value, batches.TokenBatch):
            batch = value.ids_BT.shape
    shown = None if batch is None else f"of {batch[0]} rows, the longest {batch[1]} tokens"
    return {"parameters": f"{parameters:,}" if parameters else None, "forward pass": shown}


def _locals(error: BaseException) -> Iterator[Any]:
    frames: list[FrameType] = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        yield from list(frame.f_locals.values())


def _cuda() -> dict[str, str | None]:
    import torch

    try:
        free, total = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError):  # a device that answers no more, or none at all
        return {}
    return {
        "in use by this process": _gib(torch.cuda.memory_allocated()),
        "reserved": _gib(torch.cuda.memory_reserved()),
        "free on the device": _gib(free),
        "total of the device": _gib(total),
    }


def _host() -> dict[str, str | None]:
    total, which = host_limit()
    return {"in use by this process": _gib(resident_bytes()), which: _gib(total)}


def resident_bytes() -> int | None:
    """Memory of this process, None where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) * 1024 if found else None


def host_limit() -> tuple[int | None, str]:
    """The smallest of what bounds this process, and what it is: limit of the process, container, or the machine."""
    found: list[tuple[int, str]] = []
    memory = Path("/proc/meminfo")
    total = re.search(r"MemTotal:\s+(\d+) kB", memory.read_text()) if memory.is_file() else None
    if total:
        found.append((int(total[1]) * 1024, "total of the machine"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(path).read_text().strip() if Path(path).is_file() else "max"
        if limit.isdecimal():
            found.append((int(limit), "limit of the container"))
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            found.append((soft, "limit of the process's address space"))
    return min(found) if found else (None, "total of the machine")


def _gib(count: int | None) -> str | None:
    if count is None:
        return None
    for unit in ("GiB", "MiB"):
        if count >= UNITS[unit]:
            return f"{count / UNITS[unit]:.2f} {unit}"
    return f"{count} bytes"
