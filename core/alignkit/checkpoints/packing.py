"""Flat states: nesting them by prefix, and as bytes that go from one process to another."""

import json
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from alignkit.protocols import State


def prefixed(name: str, state: State) -> dict[str, Any]:
    """`state` with `name.` before each key, to stand beside others."""
    return {f"{name}.{key}": value for key, value in state.items()}


def under(name: str, state: State) -> dict[str, Any]:
    """The part of `state` that `prefixed(name, …)` put there, without the prefix."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def pack(state: State) -> bytes:
    """A state as bytes, nothing pickled."""
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in state.items() if name not in tensors}
    return save(tensors, {"values": json.dumps(values)})


def unpack(data: bytes) -> dict[str, Any]:
    """The state that `pack` was given."""
    length = int.from_bytes(data[:8], "little")
    about = json.loads(data[8 : 8 + length])["__metadata__"]
    return {**json.loads(about["values"]), **load(data)}
