"""How much memory a step will take, roughly, against what there is.

Weights, gradients and Adam's two moments are counted; activations are an estimate. With h the width and f that of the
inner layer, the backward pass of a decoder layer keeps about 13 h + 4 f numbers a token: inputs of both norms and what
they make (6 h), of the attention (q, k, v and its result, 4 h) and of the projections (3 h), and four of the inner
width. Logits are kept whole only by the eager reference, about four times.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alignkit.preflight.finding import Finding
from alignkit.preflight.folder import ModelSizes
from alignkit.recipe.model import CheckpointOptions

if TYPE_CHECKING:
    import torch

MEMINFO = Path("/proc/meminfo")
PER_LAYER_WIDTH, PER_LAYER_INNER = 13, 4
LOGIT_COPIES = 4
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


class Part(NamedTuple):
    """Bytes of one thing, `gradients` among them.

    `certain`: it has to be there all at once when the optimizer steps, whatever the batch.
    """

    name: str
    bytes: int
    certain: bool = True
    gradients: int = 0


class Room(NamedTuple):
    """Bytes that are free and that there are, on what."""

    free: int
    total: int
    name: str


def frozen(name: str, model: ModelSizes, width: int | None = None) -> Part:
    """A model that is only read; `width`: bytes a weight, by default those in its file."""
    return Part(name, model.bytes if width is None else width * model.parameters)


def trained(name: str, model: ModelSizes, width: int = 4, adapter_rank: int | None = None) -> Part:
    """A model with gradients and Adam's moments; with adapters those of the adapters alone, in float32."""
    each = width if adapter_rank is None else 4
    frozen_weights = 0 if adapter_rank is None else width * model.parameters
    gradients = each * model.trained(adapter_rank)
    return Part(name, frozen_weights + 4 * gradients, gradients=gradients)


def activations(
    model: ModelSizes, tokens: int, *, whole_logits: bool = False, half: bool = False, checkpointed: bool = False
) -> Part:
    """What the backward pass of a micro-batch keeps; `half`: matrix products in bfloat16.

    `checkpointed`: the input of each layer, and one layer whole.
    """
    h = model.number("hidden_size", 0)
    inner = model.number("intermediate_size", 4 * h)
    layers = model.number("num_hidden_layers", 1)
    layer = PER_LAYER_WIDTH * h + PER_LAYER_INNER * inner
    numbers = layers * h + layer if checkpointed else layers * layer
    logits = LOGIT_COPIES * model.vocabulary * 4 if whole_logits else 0
    return Part("activations", tokens * (numbers * (3 if half else 4) + logits), certain=False)


def cache(model: ModelSizes, rows: int, tokens: int, width: int = 4) -> Part:
    """Keys and values while sampling `rows` completions at once, and one step's logits."""
    return Part("sampling", rows * (tokens * cache_per_token(model, width) + 3 * 4 * model.vocabulary), certain=False)


def cache_per_token(model: ModelSizes, width: int = 4) -> int:
    """Bytes of the keys and values of one token."""
    heads = model.number("num_attention_heads", 1)
    size = model.number("head_dim", model.number("hidden_size", 0) // heads)
    return 2 * model.number("num_hidden_layers", 1) * model.number("num_key_value_heads", heads) * size * width


def snapshot(changing: int, options: CheckpointOptions, device: "torch.device") -> Part | None:
    """The copy that a checkpoint is written from in the background: weights that are trained, and two moments each."""
    background = device.type == "cuda" if options.background is None else options.background
    return Part("copy for a checkpoint", 3 * changing) if background else None


def peak(parts: Sequence[Part]) -> int:
    """What is needed at once.

    Sampling and training take turns, and gradients come as activations go: the optimizer's step finds none left.
    """
    certain = sum(p.bytes for p in parts if p.certain)
    passing = max((p.bytes for p in parts if not p.certain), default=0)
    return max(certain, certain - sum(p.gradients for p in parts) + passing)


def memory_findings(parts: Sequence[Part], device: "torch.device", on_host: Part | None = None) -> Iterator[Finding]:
    """Whether the parts fit, and what is kept in the machine's own memory beside those on a GPU.

    Estimates are never errors; what has to be there at once can be.
    """
    import torch

    if on_host is not None and device.type != "cpu":
        yield from memory_findings([on_host], torch.device("cpu"))
    elif on_host is not None:
        parts = [*parts, on_host]
    room = memory_room(device)
    if room is None:
        return
    certain = sum(p.bytes for p in parts if p.certain)
    listed = ", ".join(f"{p.name} {in_bytes(p.bytes)}" for p in parts)
    need = f"about {in_bytes(peak(parts))} ({listed})"
    if certain > room.total:
        yield Finding("R061", f"{need}; {room.name} has {in_bytes(room.total)} in all")
    elif peak(parts) > room.free:
        yield Finding("R060", f"{need}; {in_bytes(room.free)} are free on {room.name}")
    else:
        yield Finding("R064", f"{need} of {in_bytes(room.free)} free on {room.name}")


def memory_room(device: "torch.device") -> Room | None:
    """Free and whole memory of the device; None where the system does not say."""
    import torch

    from alignkit.engine.memory import host_limit, resident_bytes

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return Room(free + own, total, f"{device} ({torch.cuda.get_device_name(device)})")
    limit, _ = host_limit()
    if limit is None or not MEMINFO.is_file():
        return None
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    known = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    within = limit - _used(limit, resident_bytes() or 0)
    return Room(max(0, min(known["MemAvailable"], within)), limit, "this machine")


def _used(limit: int, own: int) -> int:
    """What counts towards the limit already: of the control group that sets it, else of this process."""
    for limit_file, used_file in CGROUPS:
        if limit_file.is_file() and used_file.is_file() and limit_file.read_text().strip() == str(limit):
            return int(used_file.read_text())
    return own


def in_bytes(count: int) -> str:
    """`1.5 GB` or `20 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"
