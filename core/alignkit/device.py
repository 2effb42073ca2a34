"""Where tensors live."""

import torch

from alignkit.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA when there is one, else the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is not known", where="device", hint="auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device", where="device", hint="use device=cpu or device=auto")
    if device.type == "cuda" and device.index is not None:
        if device.index >= torch.cuda.device_count():
            raise UserError(f"there are {torch.cuda.device_count()} CUDA devices, counted from 0", where="device")
        torch.cuda.set_device(device)  # kernels and memory figures go by the current one
    return device
