"""Looking must not change what a run gives: every global random generator is put back, no tokenizer stays in memory."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_effect() -> Iterator[None]:
    """Inside, Python's, NumPy's and torch's generators may be used; afterwards they are as they were."""
    from alignkit.checkpoints.randomness import random_state, restore_random
    from alignkit.preflight.folder import forget_models

    before = random_state()
    try:
        yield
    finally:
        restore_random(before)
        forget_models()
