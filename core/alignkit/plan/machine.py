"""What is known of the machines a run is planned for."""

import re
from dataclasses import dataclass, replace
from typing import Any

from alignkit.errors import UserError, did_you_mean

# Below these a figure has lost its letter. With an example of each.
LEAST = {
    "memory": (1e6, "24G"), "flops": (1e9, "165T"), "bandwidth": (1e6, "1.0T"),
    "interconnect": (1e3, "25G"), "network": (1e3, "50G"),
}  # fmt: skip
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


@dataclass(frozen=True)
class Machine:
    """Figures of one device and what joins it to the others; None: not known, and nothing is said that needs it.

    Bytes; operations a second at the recipe's precision, dense; bytes a second of the device's memory, and of what a
    process sends to the others (one direction).
    """

    processes: int = 1
    memory: float | None = None
    flops: float | None = None
    bandwidth: float | None = None
    interconnect: float | None = None


# Makers' data sheets: dense operations in bfloat16 and in float32 (without TF32), memory, NVLink in one direction.
DEVICES = {
    "a100": (312e12, 19.5e12, 80e9, 2.04e12, 300e9),
    "h100": (989e12, 67e12, 80e9, 3.35e12, 450e9),
    "h200": (989e12, 67e12, 141e9, 4.8e12, 450e9),
}


def machine(text: str, nodes: int, network: float, precision: str) -> Machine:
    """`h100x8`: eight of a device on each of `nodes` machines; between these each device sends `network` bytes/s."""
    found = re.fullmatch(r"(\w+?)(?:x([1-9]\d*))?", text.lower())
    name = found[1] if found else text
    if found is None or name not in DEVICES:
        hint = f"known: {', '.join(DEVICES)}; any other by --device-memory, --flops, --bandwidth, --interconnect"
        raise UserError(f"no device {name!r}{did_you_mean(name, list(DEVICES))}", where="--machine", hint=hint)
    half, single, memory, bandwidth, link = DEVICES[name]
    each = int(found[2] or 1)
    joined = link if nodes == 1 else min(link, network)
    flops = half if precision == "bfloat16" else single
    return Machine(each * nodes, memory, flops, bandwidth, joined)


def changed(machine: Machine, **figures: float | int | None) -> Machine:
    """With the figures that are given."""
    given: dict[str, Any] = {name: value for name, value in figures.items() if value is not None}
    return replace(machine, **given)


def quantity(text: str) -> float:
    """`80G` or `3.35T`: a number with a decimal prefix. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([KMGTP]?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is no number such as 80G or 989T")
    return float(found[1]) * UNITS[found[2].upper()]


def figure(name: str, text: str) -> float:
    """A quantity of a `Machine`. Raises ValueError for one that no machine has."""
    value, (least, example) = quantity(text), LEAST[name]
    if value < least:
        raise ValueError(f"{value:g} is less than any device has: write it with its letter, such as {example}")
    return value
