"""Where tensors live."""

import os

import torch

from alignkit import processes
from alignkit.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA when there is one, else the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is not known", where="device", hint="auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device", where="device", hint="use device=cpu or device=auto")
    if device.type == "cuda" and processes.several():
        _require_own_gpu(device)
    if device.type == "cuda" and device.index is not None:
        if device.index >= torch.cuda.device_count():
            raise UserError(f"there are {torch.cuda.device_count()} CUDA devices, counted from 0", where="device")
        torch.cuda.set_device(device)  # kernels and memory figures go by the current one
    return device


def _require_own_gpu(device: torch.device) -> None:
    """Raise UserError unless each process of this machine has a GPU for itself, which `processes` has chosen."""
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        raise UserError(
            f"process {own + 1} of this machine has no GPU: there are {there}",
            where="device",
            hint="start one process for each GPU, or use device=cpu",
        )
    if device.index is not None:
        raise UserError(f"{device} is one GPU for all of several processes", where="device", hint="use device=cuda")
