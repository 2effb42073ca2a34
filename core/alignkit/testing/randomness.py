"""The generators that a whole process shares: whoever draws from them changes what everybody else draws."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def global_states() -> dict[str, Any]:
    """The states of the shared generators of Python, numpy and torch, to be compared later."""
    numpy_state: Any = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (numpy_state[1].tobytes(), *numpy_state[2:]),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def assert_unused(before: dict[str, Any]) -> None:
    """Fail where a shared generator has moved since `before`."""
    used = [name for name, state in global_states().items() if state != before[name]]
    assert used == [], f"the global generator of {' and '.join(used)} was used: make a generator of one's own"


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Other states of the shared generators for a while."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
