"""A state as files: tensors in safetensors, plain values in JSON, and a checksum of both."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignkit.files import read_json, write_json
from alignkit.protocols import State

TENSORS, VALUES, CHECKSUMS = "state.safetensors", "state.json", "checksums.json"


class DamagedError(Exception):
    """A checkpoint that is not what was written."""


def write_state(folder: Path, state: State, about: dict[str, Any]) -> None:
    """Write `state`, and `about` it, into an empty folder."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in state.items() if name not in tensors}
    save_file(_alone(tensors), folder / TENSORS)
    # Python's own JSON: it has NaN and infinity, and gives every float back as it was.
    (folder / VALUES).write_text(json.dumps({"about": about, "values": values}), encoding="utf-8")
    write_json(folder / CHECKSUMS, {name: _checksum(folder / name) for name in (TENSORS, VALUES)})


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and what was said about it. Raises DamagedError for files that are not as they were written."""
    try:
        expected = read_json(folder / CHECKSUMS)
        for name in (TENSORS, VALUES):
            found = _checksum(folder / name)
            if found != expected[name]:
                raise DamagedError(_difference(name, found, expected[name]))
        written = json.loads((folder / VALUES).read_text(encoding="utf-8"))
        return {**written["values"], **load_file(folder / TENSORS)}, written["about"]
    except FileNotFoundError as error:
        raise DamagedError(f"{Path(error.filename).name} is missing") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from None


def _alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor contiguous and with memory of its own, as safetensors wants them."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        pointer = whole.untyped_storage().data_ptr()
        found[name] = whole.clone() if pointer in seen or whole.numel() < _stored(whole) else whole
        seen.add(pointer)
    return found


def _stored(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // max(1, tensor.element_size())


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _difference(name: str, found: dict[str, Any], expected: dict[str, Any]) -> str:
    if found["bytes"] != expected["bytes"]:
        return f"{name} has {found['bytes']} bytes instead of {expected['bytes']}"
    return f"the content of {name} does not have its checksum"
