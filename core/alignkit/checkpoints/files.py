"""A state as files: tensors in safetensors, plain values in JSON, and a checksum of both."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignkit.checkpoints.parts import described, stored
from alignkit.files import checksum, read_json, write_json
from alignkit.protocols import State

TENSORS, VALUES, CHECKSUMS = "state.safetensors", "state.json", "checksums.json"


class DamagedError(Exception):
    """A checkpoint that is not what was written."""


def write_state(
    folder: Path, state: State, about: dict[str, Any], parts: Mapping[str, Tensor] | None = None, marks: Any = None
) -> None:
    """Write `state`, and `about` it, into a folder.

    That has files of the tensors `parts` already, if several processes hold them; `marks` are their checksums.
    """
    about = about | ({"parts": described(parts)} if parts else {})
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in state.items() if name not in tensors}
    save_file(_alone(tensors), folder / TENSORS)
    # Python's own JSON: it has NaN and infinity, and gives every float back as it was.
    (folder / VALUES).write_text(json.dumps({"about": about, "values": values}), encoding="utf-8")
    own = {name: checksum(folder / name) for name in (TENSORS, VALUES)}
    write_json(folder / CHECKSUMS, own | (marks or {}))


def read_state(folder: Path, verify: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and what was said about it; tensors in parts are `Stored`.

    Raises DamagedError for files that are not as they were written, if it is to `verify` them.
    """
    try:
        expected = read_json(folder / CHECKSUMS)
        for name in sorted({*expected, TENSORS, VALUES}) if verify else ():
            found = checksum(folder / name)
            if found != expected[name]:
                raise DamagedError(_difference(name, found, expected[name]))
        written = json.loads((folder / VALUES).read_text(encoding="utf-8"))
        about = written["about"]
        parts = stored(folder, about.pop("parts", {}))
        return {**written["values"], **load_file(folder / TENSORS), **parts}, about
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


def _difference(name: str, found: dict[str, Any], expected: dict[str, Any]) -> str:
    if found["bytes"] != expected["bytes"]:
        return f"{name} has {found['bytes']} bytes instead of {expected['bytes']}"
    return f"the content of {name} does not have its checksum"
