"""Seeds that follow from the recipe's seed."""

import hashlib


def derived_seed(seed: int, *parts: object) -> int:
    """A seed of its own for each step and round, the same on every machine."""
    text = "/".join(str(p) for p in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % (2**31)
