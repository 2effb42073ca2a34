"""The global random generators, which models with dropout and strangers' code draw from."""

import random
from typing import Any

import numpy as np
import torch

from alignkit.checkpoints.packing import pack, prefixed, under, unpack
from alignkit.processes import gathered, rank, several
from alignkit.protocols import State


def random_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's generators, those of all CUDA devices in use included."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # the legacy form is always a tuple
    found: dict[str, Any] = {
        "python.version": version,
        "python.words": torch.tensor(words, dtype=torch.int64),
        "python.gauss": gauss,
        "numpy.keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy.position": int(position),
        "numpy.has_gauss": int(has_gauss),
        "numpy.gauss": float(cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found |= {f"cuda.{n}": state for n, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def restore_random(state: State) -> None:
    """Put the generators back to a `random_state()`, as far as this machine has them."""
    data: dict[str, Any] = dict(state)
    random.setstate((data["python.version"], tuple(data["python.words"].tolist()), data["python.gauss"]))
    keys = data["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, data["numpy.position"], data["numpy.has_gauss"], data["numpy.gauss"]))
    torch.set_rng_state(data["torch"])
    for name, value in data.items():
        device = int(name.removeprefix("cuda.")) if name.startswith("cuda.") else None
        if device is not None and device < torch.cuda.device_count():
            torch.cuda.set_rng_state(value, device)


def others_random() -> dict[str, Any]:
    """Of several processes, the generators of all but the first, whose draws may have been others."""
    packed = gathered(pack(random_state())) if several() else []
    return {k: v for rank, data in enumerate(packed) if rank for k, v in prefixed(_of(rank), unpack(data)).items()}


def own_random(state: State) -> dict[str, Any]:
    """What a checkpoint has of this process's generators; the first one's, if it is of fewer processes."""
    return under(_of(rank()), state) or under("random", state)


def _of(number: int) -> str:
    return f"random_of_{number}" if number else "random"
