"""Tensors that several processes hold in parts, as safetensors files: each writes its own, any number reads them again.

torch.distributed.checkpoint does both, so that a state goes back onto another number of processes without a process
ever holding the whole.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit import processes
from alignkit.files import checksum
from alignkit.modeling.sharding import is_part
from alignkit.protocols import State


class Stored(NamedTuple):
    """A tensor that lies in the files of a checkpoint: read by `fill`, as much of it as is wanted."""

    folder: Path
    name: str
    shape: torch.Size
    dtype: torch.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


def divided(state: State) -> dict[str, Tensor]:
    """The tensors of a state that this process holds a part of."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and is_part(value)}


def write_parts(folder: Path, parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write them, all processes together; returns the checksums of every process's file. Raises what a disk says."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    try:
        save(dict(parts), storage_writer=writer)
    except CheckpointException as error:
        raise next((found for found, _ in error.failures.values()), error) from error
    own = {path.name: checksum(path) for path in folder.glob(f"shard-{processes.rank() + 1:05d}-*.safetensors")}
    return {
        name: mark for data in processes.gathered(json.dumps(own).encode()) for name, mark in json.loads(data).items()
    }


def described(parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Shape and type of each, as plain data."""
    return {name: [list(part.shape), str(part.dtype).removeprefix("torch.")] for name, part in parts.items()}


def stored(folder: Path, parts: Mapping[str, Any]) -> dict[str, Stored]:
    """What `described` them, to be read."""
    return {
        name: Stored(folder, name, torch.Size(shape), getattr(torch, dtype)) for name, (shape, dtype) in parts.items()
    }


@torch.no_grad()
def fill(targets: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Copy the tensors of `state` into those of the same name, each process as much as it holds."""
    wanted: dict[Path, dict[str, Tensor]] = {}
    for name, target in targets.items():
        value = state[name]
        if isinstance(value, Stored):
            wanted.setdefault(value.folder, {})[value.name] = target.detach()
        elif is_part(target):
            target.copy_(_part_of(value, target))
        else:
            target.copy_(value)
    for folder, tensors in wanted.items():
        _read(folder, tensors)


def _part_of(value: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    whole = value.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _read(folder: Path, tensors: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not processes.several())
